"""Data directories that begin a new epoch of a cluster: from a backup, or from what a survivor of a lost majority has.

Both come to the same: a database as it was, at one log index, and a journal that begins there, of a cluster of which
this node is the only member. Others join it as any new node does. No row of the state changes; the recovery epoch,
which every id and key is made with, is another one, so nothing that is made from now on has an id that the history
which was lost, or which goes on elsewhere, has given to something else.

The first entries of the new epoch are in that journal already: they end the sessions of whoever can't be meant any
more, so that nothing is handed to them until they are missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from orchestrator.codec.entries import ENTRY_COMMANDS_MAX, EntryHeader, decode_entry, encode_entry
from orchestrator.engine import system
from orchestrator.engine.commands import ExpireSession
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import Meta
from orchestrator.engine.resident import Session
from orchestrator.engine.results import AnyResult
from orchestrator.replication import configuration as configurations
from orchestrator.replication import identity as identities
from orchestrator.replication.applier import Applier
from orchestrator.replication.clock import LogClock
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.replication.durable import DIRECTORY, DurableState
from orchestrator.replication.errors import IdentityError
from orchestrator.replication.files import Files, RealFiles, replace_file
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.identity import Identity
from orchestrator.replication.journal import Journal
from orchestrator.replication.log import Entry, EntryKind
from orchestrator.replication.membership import Membership
from orchestrator.replication.release import THIS_RELEASE
from orchestrator.replication.sequencer import PARTITION
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.worker import thread_worker
from orchestrator.storage import schema
from orchestrator.storage.backup_file import BackupHeader, BackupReader
from orchestrator.storage.backups import extract, meta_of, restamp, sessions_of
from orchestrator.storage.database import Database
from orchestrator.storage.flusher import Flusher
from orchestrator.storage.schema import Applied
from orchestrator.storage.stamps import read_stamp
from orchestrator.storage.store import Store, restored_machine
from orchestrator.world import SystemClock

DATABASE = "state.db"
# There while a backup is being restored: what else is there then is of an attempt that did not come to its end.
RESTORING = "restoring"
# Clients and workers take the word of a later term only, and the history that was lost may have come to some. How many
# exactly is drawn: two survivors that were both recovered, by mistake, must not have entries of one term.
TERMS_SKIPPED = 1_000_000
_READ_BYTES = 1 << 20


class NothingToRecover(IdentityError):
    """This node has no part in a cluster that lost its majority."""


@dataclass(frozen=True)
class Position:
    """What the data of a stopped node are."""

    identity: Identity
    configuration: Configuration
    applied_index: int
    # The end of its journal; what lies beyond the applied index may have been acknowledged, or not.
    last_index: int
    last_term: int
    # Of the newest entry.
    log_time_ms: int

    @property
    def others(self) -> list[str]:
        return sorted({*self.configuration.names()} - {self.identity.node})

    @property
    def is_learner(self) -> bool:
        return self.identity.node in self.configuration.learners


@dataclass(frozen=True)
class Begun:
    """A data directory of a new epoch, ready to be served."""

    identity: Identity
    applied: Applied


# -- from a backup -------------------------------------------------------------------------------------------------


def restore(
    backup: Path,
    data_dir: Path,
    *,
    node: str,
    address: str,
    cluster_id: str | None = None,
    progress: Callable[[int], None] = lambda size_bytes: None,
) -> tuple[BackupHeader, Begun]:
    """Makes the data directory of the only member of a new cluster, which holds what the backup does. Blocks.

    One that was interrupted is begun anew. Raises IdentityError, BackupUnfit, OSError.
    """
    files = RealFiles()
    with BackupReader(backup) as reader:
        header = reader.header
    THIS_RELEASE.require(header.behaviour_level, f"{backup}, made by orchestrator {header.version}, is")
    if cluster_id == header.cluster_id:
        raise IdentityError(
            f"the backup is of cluster {cluster_id}: what is restored is another cluster, with an id of its own, or "
            "nodes of the two could take each other for their own"
        )
    epoch = header.recovery_epoch + 1
    identity = identities.new_identity(cluster_id, node, {node: address}, recovery_epoch=epoch)
    _remove_unfinished(data_dir)
    identities.make_blank(files, data_dir)
    replace_file(files, data_dir / RESTORING, b"")
    try:
        extract(backup, data_dir / DATABASE, progress)
        # Its nodes are others, and so are its workers, or they are no longer at what they were at then.
        begun = asyncio.run(_begin(files, data_dir, identity, ends=lambda session: True))
    except (Exception, KeyboardInterrupt):
        _remove_unfinished(data_dir)
        raise
    files.remove(data_dir / RESTORING)
    files.sync_directory(data_dir)
    return header, begun


def _remove_unfinished(data_dir: Path) -> None:
    if not (data_dir / RESTORING).exists() or (data_dir / identities.FILE_NAME).exists():
        return
    shutil.rmtree(data_dir / DIRECTORY, ignore_errors=True)
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", RESTORING):
        (data_dir / name).unlink(missing_ok=True)


# -- from a survivor -----------------------------------------------------------------------------------------------


def is_begun(data_dir: Path, node: str) -> bool:
    """Whether `recover` has begun to change the data, and has not come to its end. Blocks; raises IdentityError."""
    return identities.load(RealFiles(), data_dir, node=node, unfinished=True).recovering


def position(data_dir: Path, node: str) -> Position:
    """What a stopped node has. Blocks. Raises IdentityError, JournalCorrupt, DatabaseCorrupt."""

    async def look() -> Position:
        identity = identities.load(RealFiles(), data_dir, node=node)
        async with _opened(data_dir, identity) as (_, found):
            return found

    return asyncio.run(look())


def recover(data_dir: Path, node: str, address: str) -> Begun:
    """Makes this node the only member of the cluster's next epoch, with everything that it has. Blocks.

    What was interrupted is taken up again. Raises IdentityError, JournalCorrupt, DatabaseCorrupt, OSError.
    """
    files = RealFiles()
    identity = identities.load(files, data_dir, node=node, unfinished=True)
    if not identity.recovering:
        position(data_dir, node)
        # From here on it may hold what a majority elsewhere does not: it never goes back to that.
        identity = msgspec.structs.replace(identity, recovering=True)
        identities.save(files, data_dir, identity)
    recovered = identities.new_identity(
        identity.cluster_id, node, {node: address}, recovery_epoch=identity.recovery_epoch + 1
    )
    return asyncio.run(_recover(files, data_dir, identity, recovered))


async def _recover(files: Files, data_dir: Path, identity: Identity, recovered: Identity) -> Begun:
    if _epoch_of(data_dir / DATABASE) == identity.recovery_epoch:
        async with _opened(data_dir, identity) as (durable, found):
            await _apply_all(data_dir, durable, identity, found)
    # All nodes have stopped. Workers have not, and go on with what they have: it is the same cluster, a little earlier.
    return await _begin(files, data_dir, recovered, ends=lambda session: session.namespace == system.NAMESPACE)


def _epoch_of(database: Path) -> int:
    connection = schema.connect(str(database), None, read_only=True)
    try:
        epoch: int = schema.read_meta(connection)["recovery_epoch"]
    finally:
        connection.close()
    return epoch


@contextlib.asynccontextmanager
async def _opened(data_dir: Path, identity: Identity) -> AsyncIterator[tuple[DurableState, Position]]:
    """The journal of a stopped node, and what it has."""
    if not (data_dir / DATABASE).exists():
        raise NothingToRecover(f"{data_dir} holds no {DATABASE}: this node was never started, or has lost it")
    applied, log_time_ms = _standing(data_dir / DATABASE, identity)
    durable = _durable(data_dir, identity)
    try:
        await durable.open(applied.index, applied.term)
        stored = configurations.decode_stored(applied.configuration, identity.members)
        membership = Membership(identity, durable.hard_state, durable.journal, stored=stored)
        configuration = membership.configuration
        if configuration is None or configuration.names() == [identity.node]:
            raise NothingToRecover(
                f"{data_dir} is of a node that "
                + ("was never a member of a cluster" if configuration is None else "is the only member of its cluster")
                + ": it needs no recovery"
            )
        journal = durable.journal
        yield durable, Position(
            identity,
            configuration,
            applied.index,
            journal.last_index,
            journal.last_term,
            await _last_time_ms(durable, applied.index) or log_time_ms,
        )
    finally:
        await durable.close()


def _standing(database: Path, identity: Identity) -> tuple[Applied, int]:
    connection = schema.connect(str(database), None)
    try:
        schema.check(connection, schema.Identity(identity.cluster_id, identity.recovery_epoch))
        stamp = read_stamp(connection)
        THIS_RELEASE.require(stamp.level, f"{database.parent}{stamp.last_opened} is")
        return schema.read_applied(connection), meta_of(connection).log_time_ms
    finally:
        connection.close()


async def _last_time_ms(durable: DurableState, after: int) -> int:
    """Log time of the newest entry beyond `after` that has one; 0 if none has."""
    journal = durable.journal
    for index in range(journal.last_index, after, -1):
        [record, *_] = await journal.read(index, 1)
        if record.kind == EntryKind.COMMANDS:
            return decode_entry(record.data).time_ms
    return 0


async def _apply_all(data_dir: Path, durable: DurableState, identity: Identity, found: Position) -> None:
    """Brings the database to the end of the journal, under the ids of the epoch in which the entries were made."""
    database = Database.open(
        data_dir / DATABASE, cluster_id=identity.cluster_id, recovery_epoch=identity.recovery_epoch
    )
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    flusher = Flusher(database, durable_index=lambda: found.last_index, wait_durable=_is_durable,
                      on_flushed=lambda index: None, on_fatal=failed.set_exception)
    flusher.start()
    configuration = configurations.encode_stored((found.last_index, found.configuration))
    applied, clock = database.applied(), SystemClock()
    replay = _Replay(durable, found.last_index, restored_machine(database))
    applier = Applier(
        log=replay, machine=replay.machine, store=Store(database, flusher, lambda index: configuration), clock=clock,
        log_clock=LogClock(clock, dict), observer=replay, applied_index=applied.index, applied_term=applied.term,
        replayed_until=found.last_index, hot_executions_max=10_000, hot_bytes_max=256 << 20,
    )
    running = asyncio.create_task(applier.run())
    reached = asyncio.create_task(_reach(applier, flusher, found.last_index))
    try:
        await asyncio.wait({running, reached, failed}, return_when=asyncio.FIRST_COMPLETED)
        for ended in (failed, running, reached):
            if ended.done():
                ended.result()
    finally:
        for task in (running, reached):
            task.cancel()
        await asyncio.gather(running, reached, return_exceptions=True)
        failed.cancel()
        await flusher.close()
        await database.close()


async def _is_durable(index: int) -> None:
    """Everything is that the journal has been opened with."""


async def _reach(applier: Applier, flusher: Flusher, index: int) -> None:
    await applier.wait_applied(index)
    applier.stage_soon()
    await flusher.drain()


class _Replay:
    """The journal of a stopped node as a log, all of which is committed, and whoever watches it being applied."""

    def __init__(self, durable: DurableState, last_index: int, machine: Machine) -> None:
        self._journal = durable.journal
        self._last_index = last_index
        self.machine = machine

    async def committed(self, after: int) -> list[Entry]:
        if after >= self._last_index:
            await asyncio.get_running_loop().create_future()
        records = await self._journal.read(after + 1, _READ_BYTES)
        return [Entry(record.index, record.term, EntryKind(record.kind), record.data) for record in records]

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        """Nobody waits, and nothing is performed: what is owed is told by the state."""

    def snapshot_installed(self) -> Machine:
        raise AssertionError("nobody sends a snapshot")


# -- what both come to ---------------------------------------------------------------------------------------------


async def _begin(files: Files, data_dir: Path, identity: Identity, *, ends: Callable[[Session], bool]) -> Begun:
    """The database is there: it becomes this identity's, with a journal that begins where it stands.

    `ends` chooses the sessions that the new epoch begins without.

    In this order: what is interrupted can be begun again, for the epoch in the database says how far it has come.
    """
    database, node = data_dir / DATABASE, identity.node
    connection = schema.connect(str(database), None)
    try:
        applied = schema.read_applied(connection)
        meta, sessions = meta_of(connection), sessions_of(connection)
    finally:
        connection.close()
    alone = Configuration(members={node: Member(identity.incarnation, identity.members[node])})
    stored = configurations.encode_stored((applied.index, alone))
    restamp(database, schema.Identity(identity.cluster_id, identity.recovery_epoch), stored)
    _remove_journal(data_dir)
    durable = _durable(data_dir, identity)
    try:
        await durable.open(0, 0)
        durable.journal.reset(applied.index, applied.term)
        term = applied.term + _terms_skipped()
        durable.hard_state.save(HardState(term=term, configuration={node: identity.incarnation}))
        # Twice: the copy of the hard state is written after it.
        await durable.disk.drain()
        await durable.disk.drain()
        _end_sessions(durable.journal, term, meta, node, [session.id for session in sessions if ends(session)])
        await durable.journal.sync()
    finally:
        await durable.close()
    identity = msgspec.structs.replace(identity, formed=True)
    identities.save(files, data_dir, identity)
    return Begun(identity, applied)


def _end_sessions(journal: Journal, term: int, meta: Meta, node: str, session_ids: Sequence[str]) -> None:
    """As a leader would, had it missed them: whoever applies these entries knows no difference."""
    header = EntryHeader(meta.behaviour_level, PARTITION, meta.log_time_ms, node)
    for at in range(0, len(session_ids), ENTRY_COMMANDS_MAX):
        ended = session_ids[at : at + ENTRY_COMMANDS_MAX]
        entry = encode_entry(header, [(None, ExpireSession(session_id)) for session_id in ended])
        journal.append(journal.last_index + 1, term, EntryKind.COMMANDS, entry)


def _terms_skipped() -> int:
    return TERMS_SKIPPED + random.SystemRandom().randrange(TERMS_SKIPPED)


def _durable(data_dir: Path, identity: Identity) -> DurableState:
    def failed(error: BaseException) -> NoReturn:
        raise error

    return DurableState(
        RealFiles(), data_dir, identity, RaftSettings(), workers=thread_worker, on_durable=lambda: None, on_error=failed
    )


def _remove_journal(data_dir: Path) -> None:
    directory = data_dir / DIRECTORY
    if directory.exists():
        for path in directory.iterdir():
            path.unlink()
        RealFiles().sync_directory(directory)
