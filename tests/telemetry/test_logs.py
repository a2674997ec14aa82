"""One record, one line, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from orchestrator.telemetry import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(False)


def configured(log_format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(node="a", log_format=log_format, level=level, stream=stream)
    return stream


def test_for_people() -> None:
    stream = configured("human")
    logging.getLogger("orchestrator.replication.votes").info("elected", extra={"term": 7, "why": "no leader"})
    line = stream.getvalue()
    assert line.endswith('Z INFO    a replication.votes: elected term=7 why="no leader"\n')


def test_for_machines() -> None:
    stream = configured("json")
    logging.getLogger("orchestrator.node").warning("slow %s", "disk", extra={"lag_ms": 5, "node_id": b"x"})
    record = json.loads(stream.getvalue())
    assert record.pop("time").endswith("Z")
    assert record == {"level": "warning", "node": "a", "logger": "node", "message": "slow disk", "lag_ms": 5,
                      "node_id": "b'x'"}


def test_a_field_never_hides_what_every_record_has() -> None:
    stream = configured("json")
    logging.getLogger("x").info("m", extra={"node": "b", "time": 1})
    record = json.loads(stream.getvalue())
    assert record["node"] == "a" and record["field_node"] == "b" and record["field_time"] == 1


def test_a_message_can_not_forge_a_line() -> None:
    stream = configured("human")
    logging.getLogger("x").info("first\nsecond", extra={"field": "third\nfourth"})
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_errors_come_with_their_trace(log_format: str) -> None:
    stream = configured(log_format)
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("x").exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert "failed" in first
    if log_format == "json":
        assert not rest and "ValueError: bad" in json.loads(first)["error"]
    else:
        assert rest[-1] == "    ValueError: bad"


def test_the_level_and_the_noise_of_libraries() -> None:
    stream = configured("human", "info")
    logging.getLogger("orchestrator.x").debug("no")
    logging.getLogger("asyncio").info("no")
    logging.getLogger("asyncio").warning("yes")
    assert len(stream.getvalue().splitlines()) == 1


def test_every_record_says_where_the_node_is_and_a_field_of_its_own_wins() -> None:
    stream = configured("json")
    index = iter(range(17, 30))
    logs.about(lambda: {"term": 3, "applied_index": next(index)})
    logging.getLogger("orchestrator.node").info("one")
    logging.getLogger("orchestrator.node").info("two", extra={"term": 4, "workflow_id": "w"})
    one, two = map(json.loads, stream.getvalue().splitlines())
    assert (one["term"], one["applied_index"]) == (3, 17)
    assert (two["term"], two["applied_index"], two["workflow_id"]) == (4, 18, "w")
    stream = configured("human")
    logs.about(lambda: {"term": 3, "applied_index": 17})
    logging.getLogger("orchestrator.node").info("one", extra={"task_id": "t"})
    assert stream.getvalue().endswith("one task_id=t term=3 applied_index=17\n")


def test_no_record_is_lost_for_what_is_said_beside_it() -> None:
    stream = configured("json")

    def fail() -> dict[str, int]:
        raise RuntimeError("stopped")

    logs.about(fail)
    logging.getLogger("x").info("said")
    assert json.loads(stream.getvalue())["message"] == "said"
