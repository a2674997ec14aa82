"""All peers, by name."""

from __future__ import annotations

from tests.benchmarks.peers.dbos_postgres import library as dbos
from tests.benchmarks.peers.installation import Installation
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.redis_streams import choreography
from tests.benchmarks.peers.restate import cluster as restate

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*choreography.PEERS, *restate.PEERS, *dbos.PEERS)}


def installations(names: list[str]) -> list[Installation]:
    """What the peers need, each once."""
    return list(dict.fromkeys(each for name in names for each in PEERS[name].installations))
