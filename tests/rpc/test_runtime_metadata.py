"""Values of runtimeMetadata: where they come from, who gets them, and what is said of those that there are not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from orchestrator.rpc import runtime_metadata
from orchestrator.rpc.runtime_metadata import VALUE_BYTES_MAX, Environment, RuntimeMetadata
from orchestrator_api.v1 import workers_pb2 as pb
from tests.rpc.attempts import result
from tests.rpc.bench import Bench, Stubs, Worker

KEY = "hunter2-of-the-bank"


class Store:
    def __init__(self, **values: str) -> None:
        self._values = values

    def resolve(self, namespace: str, name: str) -> str | None:
        return self._values.get(f"{namespace}_{name}")


def test_an_environment_shows_what_begins_with_the_prefix() -> None:
    variables = {"TASK_KEY": "k", "TASK_": "nothing", "PATH": "/bin", "KEY": "other"}
    environment = Environment(variables, "TASK_")
    assert [environment.resolve("n", name) for name in ("KEY", "PATH", "TASK_KEY")] == ["k", None, None]
    variables["TASK_LATER"] = "l"
    assert environment.resolve("n", "LATER") == "l"


def test_without_a_prefix_nothing_is_to_be_seen() -> None:
    assert Environment({"PATH": "/bin", "KEY": "k"}, "").resolve("n", "PATH") is None


def test_the_first_source_that_has_a_value_gives_it() -> None:
    metadata = RuntimeMetadata(Store(eu_KEY="secret", eu_EMPTY=""), Environment({"X_KEY": "k", "X_URL": "u"}, "X_"))
    assert metadata.values("eu", ("KEY", "URL", "EMPTY")) == {"KEY": "secret", "URL": "u", "EMPTY": ""}
    assert metadata.values("us", ("KEY", "EMPTY")) == {"KEY": "k"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "there is none"),
        ("\udcff" + KEY, "not text"),
        (KEY + "x" * VALUE_BYTES_MAX, "more than 16384 bytes"),
        (KEY + "é" * (VALUE_BYTES_MAX // 2), "more than 16384 bytes"),
    ],
)
def test_what_can_not_be_given_is_left_out_and_said_once(
    caplog: pytest.LogCaptureFixture, value: str | None, why: str
) -> None:
    metadata = RuntimeMetadata(Environment({"X_A": "a"} | ({} if value is None else {"X_KEY": value}), "X_"))
    for namespace in ("eu", "eu", "us"):
        assert metadata.values(namespace, ("KEY", "A")) == {"A": "a"}
    assert [vars(record)["namespace"] for record in caplog.records] == ["eu", "us"]
    for record in caplog.records:
        assert record.levelno == logging.WARNING
        assert "'KEY'" in record.getMessage() and why in record.getMessage()
        assert KEY not in record.getMessage()


def test_what_was_said_is_not_remembered_without_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_metadata, "_TOLD_MAX", 2)
    metadata = RuntimeMetadata()
    for name in ("A", "B", "C", "C", "B", "A"):
        assert metadata.values("n", (name,)) == {}
    assert [record.getMessage().split()[5][:-1] for record in caplog.records] == ["'A'", "'B'", "'C'", "'A'"]


def test_the_longest_value_that_fits_is_given() -> None:
    assert RuntimeMetadata(Environment({"X_A": "x" * VALUE_BYTES_MAX}, "X_")).values("n", ("A",))


# --- who gets them


@pytest.fixture
def asking(bench: Bench) -> Bench:
    bench.environment |= {"TASK_KEY": KEY, "TASK_OTHER": "not asked for"}
    bench.driver.register_task(name="pay", runtimeMetadata=["KEY", "MISSING"], retryDelaySeconds=0)
    bench.order("pay", "ship")
    return bench


async def test_a_worker_gets_the_values_that_there_are(
    asking: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = Worker(stubs)
    await worker.hello("pay", "ship")
    asking.start("w1")
    (paying,) = await worker.assigned()
    assert dict(paying.runtime_metadata) == {"KEY": KEY}
    await worker.give(result(paying))
    (shipping,) = await worker.assigned()
    assert not shipping.runtime_metadata
    assert "'MISSING'" in caplog.text and KEY not in caplog.text


async def test_a_poller_gets_them_too(asking: Bench, stubs: Stubs) -> None:
    asking.start("w1")
    given: Any = await stubs.workers.PollTasks(pb.PollTasksRequest(worker_id="p", task_names=["pay"]))
    assert [dict(each.runtime_metadata) for each in given.assignments] == [{"KEY": KEY}]


async def test_each_attempt_gets_the_value_of_its_time(asking: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello("pay")
    asking.start("w1")
    await worker.assigned()
    asking.environment["TASK_KEY"] = "changed"
    asking.start("w2")
    (second,) = await worker.assigned()
    assert dict(second.runtime_metadata) == {"KEY": "changed"}
