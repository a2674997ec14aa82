"""`python -m tests.benchmarks`: measures a real cluster on this machine, and says what was promised.

The numbers depend on the machine and on what else runs there, so a budget that is missed changes the exit code only
with --strict. What must not happen at any speed (something acknowledged is missing) always does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.verify.machines import namespaces as network
from orchestrator_client import run
from tests.benchmarks.measurement import Measurement, failed, remarks, table, targets, to_json
from tests.benchmarks.peers import comparison
from tests.benchmarks.peers.catalogue import PEERS
from tests.benchmarks.peers.comparison import Comparison
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.plot import svg
from tests.benchmarks.processes import Options, Progress, surroundings
from tests.benchmarks.rows import PART, PRIVATE, ROWS

BUDGET_MISSED = 1
WRONG = 3


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.peers and comparison.ROW not in arguments.rows:
        parser.error(f"peers are measured in {comparison.ROW} only")
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
        live=arguments.live,
        waiting=arguments.waiting,
        soak_s=arguments.soak_seconds,
        overload=arguments.overload,
        seed=arguments.seed,
        workers=arguments.workers,
        slots=arguments.slots,
        directory=arguments.directory,
        sync_ms=arguments.sync_ms,
        rtt_ms=arguments.rtt_ms,
        node_settings=dict(arguments.set),
    )
    report = Report(arguments.json, arguments.plot)
    run(_measure(arguments.rows, options, _installed(arguments.peers), arguments.rounds, report))
    report.show()
    if any(measurement.faults for measurement in report.measurements):
        return WRONG
    return BUDGET_MISSED if arguments.strict and not all(each.kept for each in report.measurements) else 0


@dataclass
class Report:
    """What was measured; the files have every row as soon as it is."""

    json: Path | None
    plot: Path | None
    measurements: list[Measurement] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def add(self, measurements: Iterable[Measurement]) -> None:
        self.measurements += measurements
        if self.json is not None:
            self.json.write_text(to_json(self.measurements), encoding="utf-8")
        if self.plot is not None:
            self.plot.write_text(svg(self.measurements), encoding="utf-8")

    def show(self) -> None:
        print(table(self.measurements))
        if promised := targets(self.measurements):
            print(f"\n{promised}\n")
        for line in [line for compared in self.comparisons for line in compared.ratios()]:
            print(line)
        for line in remarks(self.measurements):
            print(line)


def _installed(names: list[str]) -> list[Peer]:
    found = []
    for name in names:
        if obstacle := PEERS[name].obstacle():
            print(f"{name} is skipped: {obstacle}", file=sys.stderr)
        else:
            found.append(PEERS[name])
    return found


async def _measure(rows: list[str], options: Options, peers: list[Peer], rounds: int, report: Report) -> None:
    progress = Progress()
    for row in rows:
        try:
            if row == comparison.ROW and (peers or rounds > 1):
                async for compared in comparison.compare(ROWS[row], peers, rounds, options, progress):
                    report.comparisons.append(compared)
                    report.add(compared.typical())
            else:
                report.add(await _measure_row(row, options, progress))
        except Exception as error:  # noqa: BLE001 - it is this row's fault, and the others are measured all the same
            traceback.print_exception(error)
            report.add([failed(row, error)])


async def _measure_row(row: str, options: Options, progress: Progress) -> list[Measurement]:
    # Before each row: it is about what else runs now.
    around = surroundings(options)
    progress.say(
        f"{row}: {around['cpus']} processors, load {around['load_1m']}, fsync of 4 KiB {around['fsync_p50_ms']} ms"
    )
    found = await ROWS[row](options, progress)
    for measurement in found:
        measurement.settings.update(around)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=_rows, default=[row for row in ROWS if row not in (PRIVATE, PART)],
                        metavar=",".join(ROWS),
                        help=f"default: all but {PRIVATE}, which needs to be root, and {PART}, a part of start")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 16, 128], metavar="N,N,...",
                        help="callers at once (%(default)s)")
    parser.add_argument("--peers", type=_peers, default=[], metavar=",".join(PEERS),
                        help=f"other systems to measure in turn with ours in {comparison.ROW}, or all (default: none)")
    parser.add_argument("--rounds", type=_number, default=1,
                        help=f"of {comparison.ROW}: how often each system's turn comes (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each window (%(default)s)")
    parser.add_argument("--kills", type=_number, default=20, help="and other losses of the leader (%(default)s)")
    parser.add_argument("--finished", type=_number, default=1_000_000,
                        help="workflows before the restart (%(default)s); those beyond 2,000 are copied")
    parser.add_argument("--live", type=int, default=100_000, help="... and so many that wait (%(default)s)")
    parser.add_argument("--waiting", type=_number, default=100_000, help="workflows in that row (%(default)s)")
    parser.add_argument("--soak-seconds", type=float, default=600, metavar="S", help="of the soak (%(default)s)")
    parser.add_argument("--overload", type=float, default=3, metavar="N",
                        help="how many times what the cluster completes is offered (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of when the leader is killed (%(default)s)")
    parser.add_argument("--workers", type=_number, default=1, help="processes (%(default)s)")
    parser.add_argument("--slots", type=_number, default=256, help="of each worker (%(default)s)")
    parser.add_argument("--directory", type=Path, help="for temporary files; decides which disk is measured")
    parser.add_argument("--sync-ms", type=float, default=0, metavar="MS", help="longer each sync of a node's log takes")
    parser.add_argument("--rtt-ms", type=float, default=0, metavar="MS", help="between nodes, there and back")
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
                        help="a setting of the nodes; may be given more than once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows are written, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where they are drawn, as SVG")
    parser.add_argument("--strict", action="store_true", help=f"exit code {BUDGET_MISSED} if a budget is missed")
    return parser


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return rows


def _peers(text: str) -> list[str]:
    names = list(PEERS) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names


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
