"""The same row of our cluster and of its peers in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from tests.benchmarks.arithmetic import cpu_per_1000, median
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.processes import Measure, Options, Progress, surroundings, temporary

# What peers can do.
ROW = "w3"


@dataclass(frozen=True)
class Comparison:
    """What was measured with one number of callers: ours in each round, and each peer in as many."""

    ours: tuple[Measurement, ...]
    peers: tuple[tuple[Measurement, ...], ...]

    def typical(self) -> list[Measurement]:
        """Of each system the whole of one round, that of its median throughput: no number is of another run."""
        found = []
        for runs in (self.ours, *self.peers):
            ordered = sorted(runs, key=lambda run: run.per_second)
            rates = [round(run.per_second, 1) for run in runs]
            middle = ordered[(len(ordered) - 1) // 2]
            faults = tuple(fault for run in runs for fault in run.faults)
            found.append(replace(middle, faults=faults, settings={**middle.settings, "per_second_of_rounds": rates}))
        return found

    def ratios(self) -> list[str]:
        """Ours to each peer's: the median over the rounds, and what it lies between."""
        ours = self.ours
        lines = []
        for theirs in self.peers:
            pairs = list(zip(ours, theirs, strict=True))
            shares = [
                _spread("throughput", [one.per_second / other.per_second for one, other in pairs]),
                _spread("p50", [one.median_ms / other.median_ms for one, other in pairs]),
                _spread("p99", [one.at(0.99) / other.at(0.99) for one, other in pairs]),
                _spread("CPU", [_cpu(one) / _cpu(other) for one, other in pairs]),
            ]
            lines.append(f"{ours[0].name}: {ours[0].system} to {theirs[0].system}: {', '.join(shares)}")
        return lines


def _cpu(measurement: Measurement) -> float:
    return sum(measurement.cpu_s_per_1000.values())


def _spread(what: str, values: Sequence[float]) -> str:
    ordered = sorted(values)
    between = f" ({ordered[0]:.2f} to {ordered[-1]:.2f})" if len(ordered) > 1 else ""
    return f"{what} x {median(ordered):.2f}{between}"


async def compare(
    ours: Measure, peers: Sequence[Peer], rounds: int, options: Options, progress: Progress
) -> AsyncIterator[Comparison]:
    """One for each number of callers. Every window has a system started for it, and no other runs meanwhile.

    A peer that fails is left out with these callers, and the reason is said; the others are measured all the same.
    """
    for concurrency in options.concurrency:
        alone = replace(options, concurrency=(concurrency,))
        own: list[Measurement] = []
        others: dict[str, list[Measurement]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            own.append(await _turn(ours, alone, progress))
            for peer in [peer for peer in peers if peer.name in others]:
                try:
                    others[peer.name].append(await _turn(_measure(peer), alone, progress))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is this peer's
                    del others[peer.name]
                    progress.say(f"{peer.name}: c={concurrency} is left out: {error!r}")
        yield Comparison(tuple(own), tuple(map(tuple, others.values())))


async def _turn(measure: Measure, options: Options, progress: Progress) -> Measurement:
    around = surroundings(options)
    [measurement] = await measure(options, progress)
    return replace(measurement, settings={**measurement.settings, **around})


def _measure(peer: Peer) -> Measure:
    async def measure(options: Options, progress: Progress) -> list[Measurement]:
        [concurrency] = options.concurrency
        name = f"{peer.name}: {ROW} c={concurrency}"
        progress.say(f"{name}: begins")
        with temporary(options) as directory:
            async with peer.start(directory, concurrency) as running:
                window = await closed_loop(
                    name, concurrency, options.seconds, running.call, running.spent, progress
                )
        return [
            Measurement(
                row=ROW,
                concurrency=concurrency,
                samples_ms=tuple(window.samples_ms),
                per_second=window.per_second,
                cpu_s_per_1000=cpu_per_1000(window.before, window.after, len(window.samples_ms)),
                settings={"seconds": options.seconds, **peer.settings},
                system=peer.name,
            )
        ]

    return measure
