"""Which nodes are in service, as they say themselves: one that is drained leaves the lead to the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.replication.frames import GossipValue

_FACT = "drained"


def facts(is_drained: bool) -> dict[str, GossipValue]:
    """For the gossip."""
    return {_FACT: int(is_drained)}


def says_drained(said: Mapping[str, GossipValue]) -> bool:
    """Of what a node said; one that said nothing yet is in service."""
    return bool(said.get(_FACT))


def in_service(peers: Iterable[str], gossip: Mapping[str, Mapping[str, GossipValue]]) -> set[str]:
    """Of these peers."""
    return {name for name in peers if not says_drained(gossip.get(name, {}))}
