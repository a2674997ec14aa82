"""The same row of our cluster and of its peers in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import Sequence
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
    """What was measured with one number of callers: in each round ours first, then each peer."""

    rounds: tuple[tuple[Measurement, ...], ...]

    def typical(self) -> list[Measurement]:
        """Of each system the whole of one round, that of its median throughput: no number is of another run."""
        found = []
        for runs in zip(*self.rounds, strict=True):
            ordered = sorted(runs, key=lambda run: run.per_second)
            rates = [round(run.per_second, 1) for run in runs]
            middle = ordered[(len(ordered) - 1) // 2]
            faults = tuple(fault for run in runs for fault in run.faults)
            found.append(replace(middle, faults=faults, settings={**middle.settings, "per_second_of_rounds": rates}))
        return found

    def ratios(self) -> list[str]:
        """Ours to each peer's: the median over the rounds, and what it lies between."""
        ours = [measured[0] for measured in self.rounds]
        lines = []
        for theirs in list(zip(*self.rounds, strict=True))[1:]:
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
) -> list[Comparison]:
    """One for each number of callers. Every window has a system started for it, and no other runs meanwhile."""
    systems = [ours, *(_measure(peer) for peer in peers)]
    found = []
    for concurrency in options.concurrency:
        alone = replace(options, concurrency=(concurrency,))
        found.append(Comparison(tuple([await _round(systems, alone, progress) for _ in range(rounds)])))
    return found


async def _round(systems: Sequence[Measure], options: Options, progress: Progress) -> tuple[Measurement, ...]:
    measured = []
    for measure in systems:
        around = surroundings(options)
        [measurement] = await measure(options, progress)
        measured.append(replace(measurement, settings={**measurement.settings, **around}))
    return tuple(measured)


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
