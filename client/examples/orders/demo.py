"""300 orders through a cluster whose leader is killed twice, and then an audit of what became of each of them.

    python client/examples/orders/demo.py [--seed N] [--orders N] [--kills N] [--plain] [--svg FILE] [--keep]

Exits with 0 only if the audit finds nothing and the leader was killed as often as was asked for. SEED, ORDERS, KILLS
and PLAIN in the environment stand in for the flags.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from audit import SERVICES, ExecutionView, Report, audit, read_evidence, write_executions
from clock import Stopwatch
from generate_orders import ORDERS_COUNT, make_orders
from killer import Killer
from nodes import look_at_nodes
from order_file import OrderLine, write_orders
from orders import order_saga
from rich.console import Console
from scoreboard import Scoreboard
from screen import LinesView, LiveView, View, save_svg
from shop import Shop, workflow_id
from supervisor import Supervisor

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, NotFound

SETUP_TIMEOUT_S = 60.0
# Far more than a run takes: reaching it means that something is stuck, and the demo says what.
RUN_TIMEOUT_S = 240.0
SCREEN_INTERVAL_S = 0.25
NODES_INTERVAL_S = 0.7
READS_AT_ONCE = 20


class Stuck(Exception):
    """The run does not come to its end."""


def main() -> int:
    options = parse_options()
    # Not `with TemporaryDirectory()`: what has failed is kept to be looked at.
    folder = Path(tempfile.mkdtemp(prefix="orders-demo-"))
    print(f"seed {options.seed} · {options.orders} orders · {folder}", flush=True)
    good = False
    try:
        good = asyncio.run(run(options, folder))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it was, the user is told where to look
        for leaf in leaves(error):
            print(f"{type(leaf).__name__}: {leaf}", file=sys.stderr)
    if not good:
        print(f"books, logs and the cluster's data are in {folder}", file=sys.stderr)
    elif not options.keep:
        shutil.rmtree(folder)
    return 0 if good else 1


def parse_options() -> argparse.Namespace:
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=int(environment("SEED") or random.randrange(10_000)))
    parser.add_argument("--orders", type=int, default=int(environment("ORDERS") or ORDERS_COUNT))
    parser.add_argument("--kills", type=int, default=int(environment("KILLS") or 2))
    parser.add_argument("--plain", action="store_true", default=environment("PLAIN", "") not in ("", "0"))
    parser.add_argument("--svg", type=Path, metavar="FILE", help="save the last screen as a picture")
    parser.add_argument("--keep", action="store_true", help="keep the folder with books, logs and the cluster's data")
    return parser.parse_args()


async def run(options: argparse.Namespace, folder: Path) -> bool:
    """Whether all went well. The last screen and the audit are shown also if not."""
    orders = make_orders(options.orders)
    write_orders(folder / "orders.jsonl", orders)
    board = Scoreboard(orders=len(orders), seed=options.seed)
    stopwatch = Stopwatch()
    console = Console()
    plain = options.plain or not console.is_terminal
    view: View = LinesView(board, sys.stdout) if plain else LiveView(board, console)
    try:
        async with meanwhile(every(SCREEN_INTERVAL_S, lambda: draw(view, stopwatch))):
            await play(orders, options.kills, folder, board, stopwatch)
        report = audit(read_evidence(folder))
        board.verdict = verdict(report, board, options.kills)
    finally:
        view.close(stopwatch.s)
    if options.svg:
        save_svg(board, stopwatch.s, options.svg)
    return report.ok and len(board.kills) == options.kills


async def play(orders: list[OrderLine], kills: int, folder: Path, board: Scoreboard, stopwatch: Stopwatch) -> None:
    """The whole run; what it came to is in the folder and on the board."""
    board.happened(stopwatch.s, "three nodes are starting")
    async with LocalCluster(folder / "cluster") as cluster:
        board.happened(stopwatch.s, f"they have elected a leader; the services {', '.join(SERVICES)} are starting")
        async with (
            Supervisor(folder, cluster.endpoints, board, stopwatch) as supervisor,
            meanwhile(supervisor.watch(), every(NODES_INTERVAL_S, lambda: see_nodes(cluster, board))),
        ):
            await wait_for_services(cluster.endpoints)
            stopwatch.start()
            board.happened(stopwatch.s, "the shop opens")
            shop = Shop(orders, cluster.endpoints, board, stopwatch)
            await until_the_end(shop, Killer(cluster, kills, board, stopwatch))
            await see_nodes(cluster, board)
            stopwatch.stop()
        write_executions(folder, await ask_about(orders, cluster.endpoints))


async def wait_for_services(endpoints: list[str]) -> None:
    """Until the saga is registered and each service has its session, so that the clock measures orders only."""
    async with Client(endpoints) as client:
        await client.register(order_saga)
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                while True:
                    if (await client.status()).worker_sessions >= len(SERVICES):
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Stuck(f"the services did not connect in {SETUP_TIMEOUT_S:.0f} s") from None


async def until_the_end(shop: Shop, killer: Killer) -> None:
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(shop.sell())
            group.create_task(killer.kill_now_and_then())
    except TimeoutError:
        raise Stuck(f"no end after {RUN_TIMEOUT_S:.0f} s: {shop.waits_for()}") from None


async def ask_about(orders: list[OrderLine], endpoints: list[str]) -> dict[str, ExecutionView]:
    """What the cluster says about each order, asked afresh."""
    views: dict[str, ExecutionView] = {}
    room = asyncio.Semaphore(READS_AT_ONCE)

    async def ask(client: Client, order: OrderLine) -> None:
        async with room:
            try:
                execution = await client.get(workflow_id(order))
            except NotFound:
                return  # the audit will call it lost
        report = execution.compensation
        views[order.id] = ExecutionView(
            status=str(execution.status),
            compensation=str(report.state),
            done=tuple(step.reference for step in report.done),
            left=tuple(step.reference for step in report.left),
            reason=execution.reason,
        )

    async with Client(endpoints) as client, asyncio.TaskGroup() as asking:
        for order in orders:
            asking.create_task(ask(client, order))
    return views


async def see_nodes(cluster: LocalCluster, board: Scoreboard) -> None:
    board.nodes = await look_at_nodes(cluster)


async def draw(view: View, stopwatch: Stopwatch) -> None:
    view.show(stopwatch.s)


@asynccontextmanager
async def meanwhile(*activities: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Goes on with these until the block ends; if one of them fails, so does the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(activity) for activity in activities]
        yield
        for task in tasks:
            task.cancel()


async def every(interval_s: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await action()
        await asyncio.sleep(interval_s)


def verdict(report: Report, board: Scoreboard, kills: int) -> list[str]:
    """What is off, if anything, and at last the run in one line."""
    lines = [f"✗ {violation}" for violation in report.violations]
    if len(board.kills) < kills:
        lines.append(f"✗ the leader was killed {len(board.kills)}x, not {kills}x: too few orders were in flight")
    lines.append(f"of those compensated, {report.nothing_owed} failed at the first step: nothing was owed")
    lines.append(
        f"{report.sentence()} · leader killed {len(board.kills)}x, "
        f"longest client pause {board.longest_pause_s:.1f} s · seed {board.seed} to replay"
    )
    return lines


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
