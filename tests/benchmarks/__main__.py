"""`python -m tests.benchmarks`: measures a real cluster on this machine, and says what was promised.

The numbers depend on the machine and on what else runs there, so a budget that is missed changes the exit code only
with --strict. What must not happen at any speed (something acknowledged is missing) always does.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.benchmarks.failover import measure_failover, measure_handover, measure_partition, measure_silence
from tests.benchmarks.large import measure_fan_out, measure_loop
from tests.benchmarks.measurement import Measurement, remarks, table, to_json
from tests.benchmarks.processes import Options, Progress, surroundings
from tests.benchmarks.reads import measure_barrier
from tests.benchmarks.restart import measure_restart
from tests.benchmarks.stalls import measure_stalls
from tests.benchmarks.throughput import measure_start, measure_w3
from tests.cluster.faults import network

Measure = Callable[[Options, Progress], Awaitable[list[Measurement]]]

ROWS: dict[str, Measure] = {
    "start": measure_start,
    "failover": measure_failover,
    "silence": measure_silence,
    "partition": measure_partition,
    "handover": measure_handover,
    "stalls": measure_stalls,
    "w3": measure_w3,
    "fanout-10000": measure_fan_out,
    "loop-10000": measure_loop,
    "restart": measure_restart,
    "barrier": measure_barrier,
}
# Needs network namespaces, and so to be asked for.
PRIVATE = "partition"
BUDGET_MISSED = 1
WRONG = 3


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if PRIVATE in arguments.rows:
        if why := network.obstacle():
            parser.error(f"{PRIVATE} is not possible: {why}")
        network.enter([sys.executable, "-m", "tests.benchmarks", *sys.argv[1:]])
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    options = Options(
        concurrency=tuple(arguments.concurrency),
        seconds=arguments.seconds,
        kills=arguments.kills,
        finished=arguments.finished,
        seed=arguments.seed,
        workers=arguments.workers,
        slots=arguments.slots,
        directory=arguments.directory,
        node_settings=dict(arguments.set),
    )
    around = surroundings(options)
    print(f"{around['cpus']} processors, load {around['load_1m']}, fsync of 4 KiB {around['fsync_p50_ms']} ms")
    if around["load_1m"] > around["cpus"] / 2:
        print("the machine is busy with something else: times are longer than they would be, CPU-seconds a little")
    measurements = asyncio.run(_measure(arguments.rows, options))
    for measurement in measurements:
        measurement.settings.update(around)
    print(table(measurements))
    for line in remarks(measurements):
        print(line)
    if arguments.json is not None:
        arguments.json.write_text(to_json(measurements), encoding="utf-8")
    if any(measurement.faults for measurement in measurements):
        return WRONG
    return BUDGET_MISSED if arguments.strict and not all(each.kept for each in measurements) else 0


async def _measure(rows: list[str], options: Options) -> list[Measurement]:
    progress = Progress()
    measurements = []
    for row in rows:
        measurements += await ROWS[row](options, progress)
    return measurements


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=_rows, default=[row for row in ROWS if row != PRIVATE],
                        metavar=",".join(ROWS), help=f"default: all but {PRIVATE}, which needs to be root")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 16, 128], metavar="N,N,...", help="of w3")
    parser.add_argument("--seconds", type=float, default=10, help="of each start, w3 and stalls window (%(default)s)")
    parser.add_argument("--kills", type=_number, default=20, help="and other losses of the leader (%(default)s)")
    parser.add_argument("--finished", type=_number, default=2_000,
                        help="workflows before the restart (%(default)s); those beyond 2,000 are copied")
    parser.add_argument("--seed", type=int, default=1, help="of when the leader is killed (%(default)s)")
    parser.add_argument("--workers", type=_number, default=1, help="processes (%(default)s)")
    parser.add_argument("--slots", type=_number, default=256, help="of each worker (%(default)s)")
    parser.add_argument("--directory", type=Path, help="for temporary files; decides which disk is measured")
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
                        help="a setting of the nodes; may be given more than once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows are written, too")
    parser.add_argument("--strict", action="store_true", help=f"exit code {BUDGET_MISSED} if a budget is missed")
    return parser


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return rows


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")]


def _setting(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, int(value) if value.isdecimal() else value


if __name__ == "__main__":
    sys.exit(main())
