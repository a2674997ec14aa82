"""The two kinds of runs put together: on a cluster of its own, and on one that has a name."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator import __version__
from orchestrator.verify import report as reports
from orchestrator.verify.commands import CommandFailed, CommandFaults, Target, undo_all
from orchestrator.verify.connecting import Connecting
from orchestrator.verify.crowd import SESSION_MS, Crowd, CrowdSettings
from orchestrator.verify.judge import Judge, Violation
from orchestrator.verify.looking import Observer, Replicas
from orchestrator.verify.machines.contents import ContentsDiffer, same_content
from orchestrator.verify.machines.faults import OwnFaults
from orchestrator.verify.machines.own import own_cluster
from orchestrator.verify.removal import NotRemoved, remove
from orchestrator.verify.report import Report
from orchestrator.verify.settings import Named, Settings, WrongCluster
from orchestrator.verify.statistics import Statistics
from orchestrator.verify.trial import CrowdFaults, Faults, Trial
from orchestrator.verify.undoing import Left, Record
from orchestrator.verify.work import Work
from orchestrator_client import Client, OrchestratorError

JUDGE_DEADLINE_S = 60.0
# Of workers that the operator's faults may keep from the cluster for longer than three nodes of our own are away.
NAMED_SESSION_MS = 30_000


class Running:
    """One trial, and the report on it as it is now."""

    def __init__(self, settings: Settings, connecting: Connecting, prefix: str, cluster: str) -> None:
        self.settings = settings
        self.prefix = prefix
        self.judge = Judge()
        self.began = time.monotonic()
        self.interrupted = False
        self.problems: list[str] = []
        self.connecting = connecting
        self._cluster = cluster
        self._date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")  # noqa: TID251 - the report's date
        self._trial: Trial | None = None
        self.version = __version__

    def crowd(self, session_timeout_ms: int = SESSION_MS) -> Crowd:
        settings = self.settings
        made = CrowdSettings(self.connecting, self.prefix, settings.folder, clients=settings.clients,
                             callers=settings.callers, deadline_s=settings.deadline_s,
                             session_timeout_ms=session_timeout_ms, caller_module=settings.caller_module,
                             labourer_module=settings.labourer_module)
        return Crowd(made, settings.dice("crowd"), self.began)

    def trial(self, faults: Faults, crowd: Crowd, client: Client, replicas: Replicas) -> Trial:
        """Whose nodes are compared by what they show; `compare` may be replaced."""
        settings = self.settings
        observer = Observer(client, settings.dice("observer"), settings.progress_s)
        self._trial = Trial(settings.seed, CrowdFaults(faults, crowd, self.judge), crowd, self.judge, observer,
                            replicas.compare, settings.progress_s, Statistics(self.began), on_round=self._round,
                            on_event=settings.talk.event, kinds=settings.kinds)
        return self._trial

    async def go(self, trial: Trial) -> None:
        refreshing = asyncio.create_task(self._refresh(trial))
        try:
            await trial.run(self.settings.minutes * 60, self.settings.rounds_max)
        finally:
            refreshing.cancel()
            self.settings.talk.end()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Who cancels what is in it gets the report on what there was."""
        try:
            yield
        except asyncio.CancelledError:
            self.interrupted = True

    async def _refresh(self, trial: Trial) -> None:
        while True:
            self.settings.talk.refresh(trial)
            await asyncio.sleep(0.1)

    def _round(self) -> None:
        if self.settings.section is not None:
            self.settings.section.write(self.report())

    def report(self) -> Report:
        trial, seconds = self._trial, time.monotonic() - self.began
        assert trial is not None
        return reports.of(
            trial.statistics, seed=self.settings.seed, began=self._date, minutes=seconds / 60, version=self.version,
            cluster=self._cluster, rounds=trial.rounds, objects=self.judge.checked["objects"],
            undecided=len(self.judge.undecided), lost_sessions=self.judge.lost_sessions, seconds=int(seconds) + 1,
            violations=list(trial.violations), replay=self.settings.replay, interrupted=self.interrupted,
            problems=list(self.problems),
        )


async def on_own_cluster(settings: Settings) -> Report:
    """This process must be in a network namespace of its own."""
    async with own_cluster(settings.folder / "cluster", settings.dice("cluster"), settings.node_module) as cluster:
        connecting = Connecting(cluster.endpoints)
        running = Running(settings, connecting, "verify-own", "three nodes of its own, on disks that a kill deprives "
                                                              "of power, in network namespaces")
        revision = f" ({settings.revision})" if settings.revision else ""
        running.version = f"orchestrator {__version__}{revision}, Python {platform.python_version()}"
        async with connecting.client(JUDGE_DEADLINE_S) as client, _crowd(running.crowd()) as crowd:
            await client.register(*Work(running.prefix).workflows.values())
            replicas = Replicas(connecting, client, settings.dice("replicas"))
            trial = running.trial(OwnFaults(cluster), crowd, client, replicas)
            shown = trial.compare

            async def compare(names: list[str]) -> list[Violation]:
                try:
                    await same_content(cluster, scan=True)
                except ContentsDiffer as differ:
                    return [Violation("replicas", "", str(differ))]
                return await shown(names)

            trial.compare = compare
            with running.interruptible():
                await running.go(trial)
    return running.report()


@asynccontextmanager
async def _crowd(crowd: Crowd) -> AsyncIterator[Crowd]:
    try:
        yield crowd
    finally:
        await crowd.stop()


async def on_named_cluster(settings: Settings, named: Named) -> Report:
    """Raises WrongCluster. Whatever happens, what could not be undone is in the record, and among the problems."""
    connecting = named.connecting
    async with connecting.client(JUDGE_DEADLINE_S) as client:
        status = await client.status()
        if status.cluster_id != named.cluster_id:
            known = status.cluster_id or "one that tells its id to administrators only"
            raise WrongCluster(f"the cluster at {', '.join(connecting.addresses)} is {known}, and not "
                               f"{named.cluster_id}, which may be broken: nothing was changed")
        prefix = f"verify-{secrets.token_hex(4)}"
        running = Running(settings, connecting, prefix, f"{status.cluster_id} at {', '.join(connecting.addresses)}")
        running.version = f"orchestrator {status.version}, verified by {__version__}"
        running.judge.sessions_may_end = True
        named.record.begin(prefix=prefix, cluster_id=status.cluster_id, addresses=connecting.addresses,
                           namespace=connecting.namespace)
        faults = CommandFaults(named.faults, named.undos, named.record, lambda: _targets(client))
        settings.talk.event(f"all names begin with {prefix}; what is to be undone stands in {named.record.file}")
        try:
            with running.interruptible():
                await _trial_of_named(running, faults, client)
        except CommandFailed as error:
            running.problems.append(str(error))
        finally:
            await _undo(running, faults, client, named.record)
    return running.report()


async def _trial_of_named(running: Running, faults: CommandFaults, client: Client) -> None:
    settings = running.settings
    connecting = running.connecting
    async with _crowd(running.crowd(NAMED_SESSION_MS)) as crowd:
        trial = running.trial(faults, crowd, client, Replicas(connecting, client, settings.dice("replicas")))
        await client.register(*Work(running.prefix).workflows.values())
        await running.go(trial)


async def _targets(client: Client) -> list[Target]:
    """The nodes of the cluster, the leader first."""
    status = await client.status()
    nodes = sorted(status.nodes, key=lambda node: (node.name != status.leader, node.name))
    return [Target(node.name, node.grpc_address) for node in nodes if node.grpc_address]


async def _undo(running: Running, faults: CommandFaults, client: Client, record: Record) -> None:
    """First the faults, then what was made; the record goes when nothing is left."""
    left: list[str] = []
    try:
        await faults.heal()
    except CommandFailed as error:
        left.append(f"not undone: {error}")
    try:
        removed = await remove(client, running.prefix)
        record.removed()
        running.settings.talk.event(f"{removed} executions and all definitions of {running.prefix} are removed")
    except (NotRemoved, OrchestratorError) as error:
        left.append(f"not removed: {error}")
    if not left:
        record.discard()
        return
    record.close()
    for problem in (*left, f"to be undone: orchestrator verify --undo {record.file}"):
        # At once, too: a run that ends with an error has no report.
        running.settings.talk.event(problem)
        running.problems.append(problem)


async def undo(file: Path, connecting: Connecting) -> list[str]:
    """Does what a record says is left; answers what went wrong, nothing if all is as before. Raises RecordUnusable."""
    record = Record(file)
    left: Left = record.open()
    failed = await undo_all(left.commands, record)
    if left.made:
        recorded = Connecting(connecting.addresses or left.run["addresses"], left.run["namespace"], connecting.tls,
                              connecting.token, connecting.token_file, connecting.insecure_token)
        try:
            async with recorded.client(JUDGE_DEADLINE_S) as client:
                await remove(client, left.run["prefix"])
            record.removed()
        except (NotRemoved, OrchestratorError) as error:
            failed.append(f"not removed: {error}")
    if failed:
        record.close()
    else:
        record.discard()
    return failed
