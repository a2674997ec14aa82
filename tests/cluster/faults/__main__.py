"""Real processes under faults, one seed after the other; the last line is one JSON object.

    python -m tests.cluster.faults --minutes 60 --from 0 --table runs.md
    python -m tests.cluster.faults --seed 7
    python -m tests.cluster.faults --seed 7 --environment network --faults partition_leader,ring

A seed decides the cluster and the order and parameters of its faults; when exactly they strike is the machine's
chance. Exit code 1: something was violated. Networks of the nodes' own need root, iproute2 and nftables.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from orchestrator.cli.local_cluster import LocalClusterError
from orchestrator.verify.machines import namespaces as network
from orchestrator.verify.machines.cluster import NetworkedCluster
from tests.cluster.faults.kinds import heal
from tests.cluster.faults.plan import ENVIRONMENTS, FAULTS, NETWORK, POWER, ROUNDS, Plan, plan
from tests.cluster.faults.session import Session, Tally
from tests.cluster.faults.table import Section, found
from tests.simulation import mutants

STOP_S = 60.0


class Run:
    """Seed after seed, until the time is over."""

    def __init__(self, options: argparse.Namespace, keep: Path) -> None:
        self.options = options
        self.tally = Tally()
        self.last = options.first
        self._keep = keep
        self._deadline = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
        self._section = Section(options.table, options.note) if options.table else None

    async def seeds(self) -> None:
        for seed in itertools.count(self.options.first):
            if self._is_over() or seed >= self.options.first + self.options.seeds:
                return
            self.last = seed
            await self.seed(self._plan(seed))

    def _is_over(self) -> bool:
        return time.monotonic() > self._deadline

    def _plan(self, seed: int) -> Plan:
        wanted = {"rounds": self.options.rounds, "only": self.options.faults}
        made = plan(seed, environment=self.options.environment, **wanted)
        if made.environment == NETWORK and self.options.no_network:
            made = plan(seed, environment=POWER, **wanted)
        return made

    async def seed(self, made: Plan) -> None:
        say(str(made))
        directory = self._keep / f"seed-{made.seed}"
        shutil.rmtree(directory, ignore_errors=True)
        try:
            await self._run_seed(made, directory)
        except Exception as error:  # noqa: BLE001 - the next seed may do better, and the run has failed all the same
            traceback.print_exc()
            self.tally.violations.append(f"seed {made.seed} broke off: {error!r}")
            self._write(Tally())

    async def _run_seed(self, made: Plan, directory: Path) -> None:
        violations: list[str] = []
        async with AsyncExitStack() as stack:
            cluster = made.cluster(directory / "cluster")
            if isinstance(cluster, NetworkedCluster):
                assert cluster.namespaces is not None
                stack.callback(cluster.namespaces.close)
                cluster.namespaces.open()
                await stack.enter_async_context(cluster.relay)
            session = Session(cluster, directory / "crowd", made.dice("crowd"))
            stack.push_async_callback(self._stop, session)
            try:
                await session.start()
                await _either(session.watch(), self._rounds(session, made))
            except (AssertionError, LocalClusterError) as error:
                violations = [f"seed {made.seed}: {error}"]
            session.tally.violations += violations
            _count(session)
            self.tally.add(session.tally)
            self._write(Tally())
            if violations:
                say("\n".join([*violations, _tails(session)]))
        if violations:
            say(f"the files of seed {made.seed} are in {directory}")
        elif not self.options.keep_all:
            shutil.rmtree(directory)

    async def _rounds(self, session: Session, made: Plan) -> None:
        for number, fault in enumerate(made.faults, 1):
            if number > 1 and self._is_over():
                break
            kind = f"{fault.__name__}, {made.environment}"
            began = time.monotonic()
            pause_s = await fault(session, made.dice(number))
            await heal(session.cluster)
            await session.nodes_up()
            await session.progress()
            await session.verify()
            session.tally.rounds[kind] += 1
            if pause_s:
                session.tally.failover_s[kind].append(pause_s)
            _count(session)
            self._write(session.tally)
            say(f"seed {made.seed} {number}/{len(made.faults)} {kind}: pause {pause_s:.2f} s, "
                f"{session.history.acknowledgements} acknowledgements so far, round {time.monotonic() - began:.0f} s")
        await session.verify(all_again=True)

    async def _stop(self, session: Session) -> None:
        async with asyncio.timeout(STOP_S):
            await session.stop()

    def _write(self, current: Tally) -> None:
        if self._section is not None:
            total = Tally()
            total.add(self.tally)
            total.add(current)
            self._section.write(total, self.options.first, self.last)

    def report(self) -> int:
        losses, doubles = found(self.tally)
        print(json.dumps({
            "seeds": self.last + 1 - self.options.first, "next_seed": self.last + 1,
            "rounds": dict(sorted(self.tally.rounds.items())), **self.tally.counts,
            "pause_median_s": {kind: round(statistics.median(each), 3)
                               for kind, each in sorted(self.tally.failover_s.items())},
            "pause_worst_s": {kind: round(max(each), 3) for kind, each in sorted(self.tally.failover_s.items())},
            "lost": losses, "doubled": doubles, "violations": len(self.tally.violations),
        }), flush=True)
        return 1 if self.tally.violations else 0


async def _either(*programs: Coroutine[Any, Any, None]) -> None:
    """The first to end, well or not, ends them all."""
    running = [asyncio.create_task(program) for program in programs]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _count(session: Session) -> None:
    counts = session.tally.counts
    counts["acknowledgements"] = session.history.acknowledgements
    counts["executed"] = session.history.counts["executed"]
    counts["writes lost"] = session.cluster.writes_lost
    counts["installed"] = sum(node.log_file.read_bytes().count(b"installed a snapshot")
                              for node in session.cluster.nodes.values() if node.log_file.exists())


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _tails(session: Session) -> str:
    nodes = [f"--- node {node.name}\n{node.log_tail()}" for node in session.cluster.nodes.values()]
    return "\n".join([*nodes, session.crowd.log_tail()])


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="as many seeds as fit into this time")
    parser.add_argument("--seeds", type=int, default=sys.maxsize, help="so many, one after the other")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"faults in each seed (default: {ROUNDS})")
    parser.add_argument("--environment", choices=ENVIRONMENTS, help="this one only, whatever the seeds say")
    parser.add_argument("--faults", type=lambda text: text.split(","), help=f"these, in this order: {','.join(FAULTS)}")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="plant this mistake in the nodes")
    parser.add_argument("--table", type=Path, help="a page to which this run adds its section")
    parser.add_argument("--note", default="", help="a sentence for that section")
    parser.add_argument("--keep", type=Path, help="where the files of seeds that fail stay")
    parser.add_argument("--keep-all", action="store_true", help="... and those of all the others, too")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        options.first, options.seeds = options.seed, 1
    if options.minutes is None and options.seeds == sys.maxsize:
        parser.error("say --minutes, --seeds or --seed")
    return options


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    options.no_network = False
    if options.mutant:
        os.environ[mutants.VARIABLE] = options.mutant
    if options.environment in (None, NETWORK):
        if (reason := network.obstacle()) and network.ENTERED not in os.environ:
            if options.environment == NETWORK or os.environ.get("CI"):
                print(f"networks of the nodes' own are needed: {reason}", file=sys.stderr)
                return 2
            options.no_network = True
            say(f"no faults of networks: {reason}")
        else:
            network.enter([sys.executable, "-m", "tests.cluster.faults", *arguments])
    keep = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    keep.mkdir(parents=True, exist_ok=True)
    run = Run(options, keep)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(run.seeds())
    except KeyboardInterrupt:
        say("interrupted")
    if not any(keep.iterdir()):
        keep.rmdir()
    return run.report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
