"""`orchestrator dev`: a whole cluster in one terminal, with its state on the screen, to build against and to break."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.cli import exits
from orchestrator.cli.cluster_commands import bearable, role_name
from orchestrator.cli.local_cluster import LocalCluster, LocalClusterError, LocalNode
from orchestrator.cli.output import facts, stacked, status, table, visible
from orchestrator.config import ConfigError
from orchestrator.replication.errors import IdentityError
from orchestrator_api.v1 import cluster_pb2

_REFRESH_S = 0.25
_RATE_OVER_S = 2.0
_EVENTS_SHOWN = 5


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), default=Path(".dev"), show_default=True,
              help="Kept: the next `dev` goes on from there.")
@click.option("--nodes", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--base-port", type=click.IntRange(1_024, 65_000), default=7_400, show_default=True,
              help="gRPC from here, peers 100 above, metrics 200 above; a data directory keeps its first ports.")
@click.option("--redis", metavar="HOST:PORT", default="", help="A Redis, for events to and from its streams.")
@click.option("--no-restart", is_flag=True, help="Leave a node that died as it is.")
@click.option("--plain", is_flag=True, help="Print lines instead of a screen.")
def dev(data_dir: Path, nodes: int, base_port: int, redis: str, no_restart: bool, plain: bool) -> None:
    """Run a cluster on this machine until Ctrl-C.

    Kill a node with `kill -9 PID` and see what happens.
    """
    console = Console(highlight=False)
    try:
        cluster = LocalCluster(data_dir, nodes, base_port=base_port, node_settings=_settings(data_dir, redis))
        view = Development(cluster, restart=not no_restart, plain=plain or not console.is_terminal, console=console)
        asyncio.run(view.run())
    except ConfigError as error:
        raise exits.Failure(str(error), exits.USAGE) from error
    except IdentityError as error:
        raise exits.Failure(str(error), exits.DATA_DIRECTORY_REFUSED) from error
    except (LocalClusterError, OSError) as error:
        raise exits.Failure(str(error), exits.FAILED) from error


def _settings(data_dir: Path, redis: str) -> dict[str, str]:
    """One directory is all nodes' here, so large payloads have a store."""
    large = data_dir.resolve() / "large-payloads"
    large.mkdir(parents=True, exist_ok=True)
    found = {"blob_store": "directory", "blob_directory": str(large)}
    return found | {"redis_endpoints": redis} if redis else found


class Development:
    """Watches the nodes of a cluster, restarts them, and draws what they say."""

    def __init__(self, cluster: LocalCluster, *, restart: bool, plain: bool, console: Console,
                 restart_after_s: float = 2.0) -> None:
        self._cluster = cluster
        self._restart = restart
        self._restart_after_s = restart_after_s
        self._plain = plain
        self._console = console
        self._answers: dict[str, cluster_pb2.GetStatusResponse | None] = {}
        self._died: dict[str, float] = {}
        self._events: deque[str] = deque(maxlen=_EVENTS_SHOWN)
        self._leader = ""
        # (when, commit index) of the leader.
        self._commits: deque[tuple[float, int]] = deque()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._cluster.start()
            self._say(f"{len(self._cluster.nodes)} nodes started in {self._cluster.directory}; "
                      f"endpoints {','.join(self._cluster.endpoints)}; logs in */node.log; Ctrl-C stops them")
            with self._screen() as live:
                while not self._stopping.is_set():
                    await self._observe()
                    if live is not None:
                        live.update(self._draw(), refresh=True)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), _REFRESH_S)
        finally:
            self._console.print("stopping the nodes ...")
            await self._cluster.stop()
        self._console.print(f"stopped; what they did is kept in {self._cluster.directory}")

    def stop(self) -> None:
        """Ends `run`, as Ctrl-C does."""
        self._stopping.set()

    @contextlib.contextmanager
    def _screen(self) -> Iterator[Live | None]:
        if self._plain:
            yield None
            return
        with Live(console=self._console, auto_refresh=False) as live:
            yield live

    def _say(self, event: str) -> None:
        self._events.append(f"{time.strftime('%H:%M:%S')}  {event}")
        if self._plain:
            self._console.print(visible(self._events[-1]), soft_wrap=True)

    # ---- what happens

    async def _observe(self) -> None:
        self._look_after()
        names = list(self._cluster.nodes)
        self._answers = dict(zip(names, await asyncio.gather(*map(self._cluster.status, names)), strict=True))
        view = self._view()
        leader = view.leader if view is not None else ""
        if leader != self._leader:
            self._say(f"{leader} leads in term {view.term}" if view is not None and leader else "no leader")
            self._leader = leader
            self._commits.clear()
        if view is not None:
            self._commits.append((time.monotonic(), max((node.commit_index for node in view.nodes), default=0)))
            while self._commits[0][0] < time.monotonic() - _RATE_OVER_S:
                self._commits.popleft()

    def _look_after(self) -> None:
        for node in self._cluster.nodes.values():
            if node.running:
                continue
            if node.name not in self._died:
                self._died[node.name] = time.monotonic()
                last = (node.log_tail(1) or "no log").strip()
                self._say(f"{node.name} died: {_reason(node.exit_code)}; its last words: {last[:200]}")
            elif self._restart and time.monotonic() - self._died[node.name] >= self._restart_after_s:
                del self._died[node.name]
                self._cluster.start_node(node.name)
                self._say(f"{node.name} started again")

    def _view(self) -> cluster_pb2.GetStatusResponse | None:
        answers = [answer for answer in self._answers.values() if answer is not None]
        return max(answers, key=lambda answer: (answer.term, answer.node == answer.leader), default=None)

    # ---- what is seen of it

    def _draw(self) -> Group:
        view = self._view()
        rows = [self._row(node, view) for node in self._cluster.nodes.values()]
        head = None if view is None else facts((
            ("leader", view.leader or Text("none", "bold red")), ("can bear", bearable(view)),
            ("live workflows", view.live_workflows),
            ("tasks", f"{view.leased_tasks} running, {view.ready_tasks} ready, {view.worker_sessions} worker sessions"),
            ("entries/s", f"{self._rate():.0f}"),
            ("stuck", Text(str(view.stuck_compensations), "bold red") if view.stuck_compensations else ""),
        ))
        headings = ("NODE", "PID", "ROLE", "TERM", "APPLIED", "LAG", "GRPC", "METRICS")
        return stacked(head, table(headings, rows, right=(1, 3, 4, 5)), "", Text("\n".join(self._events), "dim"))

    def _row(self, node: LocalNode, view: cluster_pb2.GetStatusResponse | None) -> list[Text | str]:
        seen = {found.name: found for found in view.nodes}.get(node.name) if view is not None else None
        own = self._answers.get(node.name)
        mine = {found.name: found for found in own.nodes}.get(node.name) if own is not None else None
        if not node.running:
            role = Text(f"DEAD ({_reason(node.exit_code)})", "bold red")
        else:
            role = status(role_name(mine.role)) if mine is not None else Text("SILENT", "yellow")
        pid = str(node.process.pid) if node.process is not None and node.running else ""
        term = str(own.term) if own is not None else ""
        return [Text(node.name, "bold"), pid, role, term, str(mine.applied_index) if mine is not None else "",
                str(seen.lag_entries) if seen is not None else "", str(node.grpc_address), str(node.metrics_address)]

    def _rate(self) -> float:
        if len(self._commits) < 2:
            return 0.0
        (first, low), (last, high) = self._commits[0], self._commits[-1]
        return max(0.0, (high - low) / (last - first))


def _reason(exit_code: int | None) -> str:
    if exit_code is None:
        return "not started"
    if exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
