"""What Redis says, as what a caller can do about it."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable, failure_of

PASSES = [
    "BUSY Redis is busy running a script.", "CLUSTERDOWN The cluster is down", "OOM command not allowed",
    "MISCONF Redis is configured to save RDB snapshots", "NOREPLICAS Not enough good replicas to write.",
    "TRYAGAIN Multiple keys request", "EXECABORT Transaction discarded because of: OOM command not allowed",
]
LEADS_ELSEWHERE = [
    "LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down", "NOAUTH Authentication required.", "UNBLOCKED force unblock",
    "WRONGPASS invalid username-password pair", "EXECABORT Transaction discarded because of: READONLY You can't write",
]
STAYS = [
    "WRONGTYPE Operation against a key", "NOPERM this user has no permissions", "ERR unknown command 'XAUTOCLAIM'",
    "EXECABORT Transaction discarded because of previous errors.", "NOGROUP No such key",
]


@pytest.mark.parametrize("said", [*PASSES, *LEADS_ELSEWHERE])
def test_what_passes(said: str) -> None:
    failure = failure_of(BaseParser.parse_error(said), "a:1")
    assert isinstance(failure, RedisUnavailable)
    assert str(failure) == f"a:1: {said}" and failure.lost == (said in LEADS_ELSEWHERE)


@pytest.mark.parametrize("said", STAYS)
def test_what_does_not(said: str) -> None:
    failure = failure_of(BaseParser.parse_error(said), "a:1")
    assert isinstance(failure, RedisRefused) and failure.reason == said


def test_a_cluster_is_named() -> None:
    failure = failure_of(BaseParser.parse_error("MOVED 3999 127.0.0.1:6381"), "a:1")
    assert isinstance(failure, RedisRefused)
    assert failure.reason == "a:1 is part of a Redis Cluster, which is not supported: MOVED 3999 127.0.0.1:6381"
