"""Elections where an answer is longer under way than a quick start waits for it."""

from __future__ import annotations

import pytest

from orchestrator.replication.frames import Heartbeat, PreVoteReply, PreVoteRequest
from orchestrator.replication.log import Role
from tests.replication.bench import Bench

PATIENCE_MS = 3_000


@pytest.mark.parametrize("round_trip_ms", [1, 60, 120, 250])
async def test_a_quick_start_waits_long_enough_for_slow_answers(round_trip_ms: int) -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    bench.raft.elections.leader_refused("n2")
    answers: dict[int, list[PreVoteReply]] = {}
    for now_ms in range(PATIENCE_MS):
        for answer in answers.pop(now_ms, []):
            bench.hear("n3", answer)
        if bench.role() is Role.CANDIDATE:
            break
        for to, message in bench.tick(after_ms=1):
            if to == "n3" and isinstance(message, PreVoteRequest):
                answer = PreVoteReply(message.term - 1, message.round, True)
                answers.setdefault(now_ms + round_trip_ms, []).append(answer)
    assert bench.role() is Role.CANDIDATE
    bench.disk.close()
