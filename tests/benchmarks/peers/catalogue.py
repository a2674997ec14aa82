"""All peers, by name."""

from __future__ import annotations

from tests.benchmarks.peers.celery_chain import workers as celery
from tests.benchmarks.peers.dbos_postgres import library as dbos
from tests.benchmarks.peers.installation import Installation
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.redis_streams import choreography
from tests.benchmarks.peers.restate import cluster as restate

_ALL = (*choreography.PEERS, *restate.PEERS, *dbos.PEERS, *celery.PEERS)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}


def installations(names: list[str]) -> list[Installation]:
    """What the peers need, each once."""
    return list(dict.fromkeys(each for name in names for each in PEERS[name].installations))
