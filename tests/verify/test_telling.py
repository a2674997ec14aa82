"""What is said while a run goes on, and how its processes are told of the cluster."""

from __future__ import annotations

import io
import itertools
import random
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.verify import talking
from orchestrator.verify.connecting import Connecting
from orchestrator.verify.statistics import Window
from orchestrator.verify.talking import Talk
from orchestrator.verify.trial import Trial, deck


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def trial() -> Trial:
    known = SimpleNamespace(answers=1_234, fault=Window("partition", "b", 1.0), rounds=4, violations=[])
    return cast(Trial, known)


def test_a_terminal_has_one_line_that_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100.0, 10.0)
    monkeypatch.setattr(talking, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stream = Terminal()
    talk = Talk(stream)
    talk.refresh(trial())
    talk.refresh(trial())
    talk.event("round 6: bridge")
    talk.end()
    written = stream.getvalue()
    assert "round 5: partition b" in written and "1,234 in all, 0 violations" in written
    assert written.count("\r\x1b[K") == 4 and written.count("\n") == 1


def test_elsewhere_there_are_lines_for_what_happens() -> None:
    stream = io.StringIO()
    talk = Talk(stream)
    talk.refresh(trial())
    talk.event("round 6: bridge")
    talk.end()
    assert stream.getvalue() == "00:00 round 6: bridge\n"


def test_processes_are_told_all_of_the_connection() -> None:
    given = Connecting(["a:7400"], "shop", ("ca.pem", "cert.pem", "key.pem"), "secret", "", True)
    assert Connecting.of(given.document()) == given
    assert "secret" not in repr(given)


def test_a_token_is_not_sent_without_secrecy() -> None:
    with pytest.raises(Exception, match="TLS"):
        Connecting(["a.example:7400"], token="secret").client(1.0)


def test_every_fault_comes_before_any_comes_again() -> None:

    kinds = ["a", "b", "c", "d"]
    dealt = list(itertools.islice(deck(kinds, random.Random(1)), 12))
    assert all(sorted(dealt[at : at + 4]) == kinds for at in (0, 4, 8))
    assert dealt == list(itertools.islice(deck(kinds, random.Random(1)), 12))
    assert dealt != list(itertools.islice(deck(kinds, random.Random(2)), 12))
