"""Whose a certificate is: by the host where the configuration has a node, and by its name where hosts are shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.replication.tls import COMPLAINT_SECONDS, COMPLAINTS_MAX, Complaints, why_another
from tests.tls import making

APART = {"a": "a.example", "b": "b.example", "c": "10.0.0.3"}
TOGETHER = dict.fromkeys("abc", "10.0.0.1")


@pytest.mark.parametrize(("names", "node", "host", "hosts", "why"), [
    (("a.example",), "a", "a.example", APART, None),
    (("A.Example",), "a", "a.example", APART, None),
    (("10.0.0.3",), "c", "10.0.0.3", APART, None),
    # Of the node, and of more than that.
    (("x", "a.example", "10.0.0.9"), "a", "a.example", APART, None),
    (("b", "b.example"), "a", "a.example", APART, "is not for a.example"),
    # The name alone proves nothing: it may be that of a machine.
    (("a",), "a", "a.example", APART, "is not for a.example"),
    # As pods of one set have it; whoever holds a wildcard may be any of them.
    (("a-0.a.shop.svc",), "a-0", "a-0.a.shop.svc", {"a-0": "a-0.a.shop.svc", "a-1": "a-1.a.shop.svc"}, None),
    (("a-1.a.shop.svc",), "a-0", "a-0.a.shop.svc", {"a-0": "a-0.a.shop.svc", "a-1": "a-1.a.shop.svc"}, "is not for"),
    (("*.a.shop.svc",), "a-0", "a-0.a.shop.svc", {"a-0": "a-0.a.shop.svc", "a-1": "a-1.a.shop.svc"}, None),
    # On one host the name decides.
    (("a", "10.0.0.1"), "a", "10.0.0.1", TOGETHER, None),
    (("b", "10.0.0.1"), "a", "10.0.0.1", TOGETHER, "is also where b, c is"),
    (("10.0.0.1",), "a", "10.0.0.1", TOGETHER, "is also where b, c is"),
    # One that is not a member: where it says that it is, unless a member is there.
    (("d.example",), "d", "d.example", APART, None),
    (("b", "b.example"), "d", "b.example", APART, "is also where b is"),
    (("d", "b.example"), "d", "b.example", APART, None),
])
def test_whose_a_certificate_is(
    tmp_path: Path, names: tuple[str, ...], node: str, host: str, hosts: dict[str, str], why: str | None
) -> None:
    made = making.node(making.authority(tmp_path), "certificate", *names).certificate
    found = why_another(made, node, host, hosts)
    assert found is None if why is None else found is not None and why in found


def test_what_may_only_call_and_nothing_at_all_are_no_nodes(tmp_path: Path) -> None:
    made = making.client(making.authority(tmp_path), "a.example").certificate
    assert "a client's" in str(why_another(made, "a", "a.example", APART))
    assert "no certificate" in str(why_another(None, "a", "a.example", APART))


def test_the_same_complaint_is_not_repeated_at_once(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    for _ in range(3):
        complaints.say("node a", "no")
    complaints.say("node b", "no")
    assert [record.getMessage() for record in caplog.records] == ["node a: no", "node b: no"]
    now[0] = COMPLAINT_SECONDS
    complaints.say("node a", "no")
    assert len(caplog.records) == 3
    for number in range(2 * COMPLAINTS_MAX):
        complaints.say(f"stranger {number}", "no")
    assert len(caplog.records) < 3 + COMPLAINTS_MAX
