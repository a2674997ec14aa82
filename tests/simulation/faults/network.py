"""Faults of the network. What one of them blocks or slows down stays so while another one does the same."""

from __future__ import annotations

import asyncio
import itertools

from orchestrator.testing.network import Direction
from tests.simulation.faults.occasion import Kind, Occasion


def _both_ways(pairs: list[Direction]) -> list[Direction]:
    return [*pairs, *((there, here) for here, there in pairs)]


async def _partition(it: Occasion) -> None:
    """A minority on one side, or one node, or with a bridge between the sides."""
    order = [member.name for member in it.shuffled()]
    cut = it.dice.randint(1, len(order) - 1)
    sides = f"{' '.join(order[:cut])} | {' '.join(order[cut:])}"
    await _block(it, _both_ways([*itertools.product(order[:cut], order[cut:])]), sides)


async def _bridge(it: Occasion) -> None:
    """Two sides that do not hear each other, and one node that both of them hear."""
    bridge, *order = [member.name for member in it.shuffled()]
    cut = it.dice.randint(1, len(order) - 1)
    sides = f"{' '.join(order[:cut])} | {' '.join(order[cut:])}, with {bridge} between"
    await _block(it, _both_ways([*itertools.product(order[:cut], order[cut:])]), sides)


async def _ring(it: Occasion) -> None:
    """Each node hears itself and its neighbours: in a ring of five a majority, and another one each."""
    order = [member.name for member in it.shuffled()]
    if len(order) < 4:
        return
    near = {frozenset(pair) for pair in zip(order, [*order[1:], order[0]], strict=True)}
    apart = [pair for pair in itertools.combinations(order, 2) if frozenset(pair) not in near]
    await _block(it, _both_ways(apart), " - ".join(order))


async def _one_way(it: Occasion) -> None:
    one, *others = [member.name for member in it.shuffled()]
    heard = it.dice.random() < 0.5
    # At least one.
    others = others[: 1 + int(it.dice.random() * len(others))]
    pairs = [(one, other) for other in others]
    what = f"{one} does not reach {' '.join(others)}" if heard else f"{' '.join(others)} do not reach {one}"
    await _block(it, pairs if heard else [(there, here) for here, there in pairs], what)


async def _block(it: Occasion, directions: list[Direction], what: str) -> None:
    seconds = it.dice.expovariate(0.7)
    cut_off = it.dice.choice(["c0", "c1", "c2", "c3", "w0", "w1"])
    if it.dice.random() < 0.3:
        directions += [(cut_off, name) for name in it.cluster.members]
        what += f", and {cut_off} reaches nobody"
    it.does(f"{what}, for {seconds:.2f} s")
    it.cluster.network.block(directions)
    await asyncio.sleep(seconds)
    it.cluster.network.unblock(directions)


async def _slow_network(it: Occasion) -> None:
    order = [member.name for member in it.shuffled()]
    pairs = [pair for pair in itertools.permutations(order, 2) if it.dice.random() < 0.5]
    slower_ms, seconds = it.dice.choice((50, 300, 1_000)), it.dice.expovariate(0.7)
    shown = " ".join(f"{here}>{there}" for here, there in pairs)
    it.does(f"up to {slower_ms} ms more on {shown}, for {seconds:.2f} s")
    it.cluster.network.slow_down(pairs, slower_ms)
    await asyncio.sleep(seconds)
    it.cluster.network.slow_down(pairs, -slower_ms)


async def _lost_connections(it: Occasion) -> None:
    share = it.dice.choice((0.1, 0.5, 1.0))
    it.does(f"{share:.0%} of all")
    it.cluster.network.lose_connections(share, it.dice)


KINDS: dict[str, Kind] = {
    "partition": _partition,
    "bridge": _bridge,
    "ring": _ring,
    "one_way": _one_way,
    "slow_network": _slow_network,
    "lost_connections": _lost_connections,
}
