"""Results: what was encoded is decoded, and equal results are equal bytes."""

from __future__ import annotations

import pytest

from orchestrator.codec.errors import ResultCorrupt
from orchestrator.codec.results import decode_result, encode_result
from orchestrator.engine import results
from orchestrator.engine.results import Code, Result, Verdict

SAMPLES: list[Result] = [
    results.Done(),
    results.Rejected(Code.NOT_FOUND, "WORKFLOW_NOT_FOUND", "no such workflow", (("field", "workflow_id"),)),
    results.Rejected(Code.INTERNAL, "BUG", ""),
    results.Started("w1", True),
    results.SessionOpened("s", False),
    results.ClientSessionOpened("s", 5),
    results.Judged(Verdict.FENCED),
    results.Polled((1, 2, 3)),
    results.Checkpointed(5, b"c"),
    results.MessagePushed("w:1"),
    results.SecretStored(3),
    results.BlobsHeld((0, 2)),
    results.ScheduleRan("e", 2, "w1"),
    results.EventPublished(1, 2, repeated=True),
    results.EventsReceived(3, "EVENTS_FULL"),
]


@pytest.mark.parametrize("result", SAMPLES)
def test_what_was_encoded_is_decoded(result: Result) -> None:
    data = encode_result(result)
    assert decode_result(data) == result
    assert encode_result(decode_result(data)) == data


def test_every_kind_is_shown_above() -> None:
    assert {type(sample) for sample in SAMPLES} == set(Result.__subclasses__())


@pytest.mark.parametrize("data", [b"", b"\xc0", encode_result(SAMPLES[3])[:-1]])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(ResultCorrupt):
        decode_result(data)
