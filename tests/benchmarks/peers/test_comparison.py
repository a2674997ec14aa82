"""What several rounds of several systems come to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.benchmarks import loops
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.peers.comparison import Comparison, compare
from tests.benchmarks.peers.peer import Peer, Running
from tests.benchmarks.processes import Options, Progress


def measured(system: str, per_second: float, p50_ms: float = 10.0, faults: tuple[str, ...] = ()) -> Measurement:
    return Measurement(
        row="w3", concurrency=16, system=system, per_second=per_second, samples_ms=(p50_ms, p50_ms, 2 * p50_ms),
        cpu_s_per_1000={"server": 1.0, "generator": per_second / 100}, faults=faults,
    )


OURS = "orchestrator-cluster"
THREE = Comparison(
    (measured(OURS, 300, 5), measured(OURS, 100, 20, ("lost",)), measured(OURS, 200)),
    ((measured("other", 100), measured("other", 400), measured("other", 100)),),
)


def test_the_typical_round_of_a_system_is_that_of_its_median_throughput() -> None:
    ours, other = THREE.typical()
    assert (ours.system, ours.per_second, ours.median_ms) == ("orchestrator-cluster", 200, 10)
    assert (other.system, other.per_second) == ("other", 100)
    assert ours.settings["per_second_of_rounds"] == [300, 100, 200]


def test_a_fault_of_any_round_is_kept() -> None:
    ours, other = THREE.typical()
    assert ours.faults == ("lost",) and not other.faults


def test_ratios_are_of_what_was_measured_in_one_round() -> None:
    [line] = THREE.ratios()
    assert line == (
        "w3 c=16: orchestrator-cluster to other: throughput x 2.00 (0.25 to 3.00), p50 x 1.00 (0.50 to 2.00), "
        "p99 x 1.00 (0.50 to 2.00), CPU x 1.50 (0.40 to 2.00)"
    )


def test_of_one_round_no_spread_is_said() -> None:
    one = Comparison(THREE.ours[2:], (THREE.peers[0][2:],))
    assert "throughput x 2.00, p50" in one.ratios()[0]


async def test_every_number_of_callers_has_its_rounds() -> None:
    asked = []

    async def ours(options: Options, progress: Progress) -> list[Measurement]:
        asked.append(options.concurrency)
        return [measured(OURS, 1)]

    found = [each async for each in compare(ours, [], 2, Options(concurrency=(1, 16)), Progress())]
    assert asked == [(1,), (1,), (16,), (16,)]
    assert [len(each.ours) for each in found] == [2, 2]
    assert "fsync_p50_ms" in found[0].typical()[0].settings


async def test_a_peer_that_fails_is_left_out_and_the_others_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "WARM_UP_S", 0)
    turns = {"steady": 0, "brief": 0}

    def peer(name: str, turns_max: int) -> Peer:
        async def call(number: int) -> None:
            await asyncio.sleep(0)

        @contextlib.asynccontextmanager
        async def start(directory: Path, callers: int) -> AsyncIterator[Running]:
            turns[name] += 1
            if turns[name] > turns_max:
                raise OSError("no more")
            yield Running(call, servers=(), workers=())

        return Peer(name, (), start)

    async def ours(options: Options, progress: Progress) -> list[Measurement]:
        return [measured(OURS, 1)]

    options = Options(concurrency=(1,), seconds=0.01)
    [found] = [each async for each in compare(ours, [peer("brief", 1), peer("steady", 3)], 3, options, Progress())]
    assert turns == {"steady": 3, "brief": 2}
    assert [[run.system for run in runs] for runs in found.peers] == [["steady"] * 3]
    assert "brief: c=1 is left out: OSError('no more')" in capsys.readouterr().err
