"""A data directory begins a new epoch: from a backup, or from a survivor; interrupted anywhere, it is begun again."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import recovery
from orchestrator.codec.entries import ENTRY_COMMANDS_MAX, EntryHeader, LogEntry, decode_entry, encode_entry
from orchestrator.engine import system
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import ExpireSession, RegisterWorkflows, StartWorkflow
from orchestrator.engine.model import SessionKind
from orchestrator.replication import configuration as configurations
from orchestrator.replication import identity as identities
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.replication.durable import DurableState
from orchestrator.replication.errors import DirectoryNotBlank, IdentityError, JournalCorrupt, LevelUnsupported
from orchestrator.replication.files import RealFiles
from orchestrator.replication.identity import Identity
from orchestrator.replication.release import Release
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.worker import thread_worker
from orchestrator.storage import schema
from orchestrator.storage.backup_file import BackupWriter
from orchestrator.storage.backups import header_of, restamp
from orchestrator.storage.errors import BackupUnfit
from orchestrator.storage.files import RealFiles as DatabaseFiles
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import Applied
from tests.storage.samples import put_execution, put_meta, put_session, put_timer
from tests.storage.test_copies import Node

ADDRESS = "h:1"
LOG_TIME_MS = 5_000
WORKFLOW = {
    "name": "one", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {}}],
}


# More than an entry holds.
SESSIONS = [f"s{number:04}" for number in range(ENTRY_COMMANDS_MAX)]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Of a cluster in epoch 3, at index 100 of term 1."""
    return asyncio.run(_backup(tmp_path / "source", tmp_path / "file"))


async def _backup(directory: Path, file: Path) -> Path:
    node = Node(directory, "cluster-a")
    rows = [put_execution("a"), *map(put_session, SESSIONS), put_session("polls", kind=SessionKind.POLL),
            put_session("of-n9", system.NAMESPACE), *(put_timer(number) for number in range(1, 90))]
    node.store.stage([put_meta(LOG_TIME_MS), *rows], 100)
    await node.store.flusher.drain()
    copy = await node.copies.copy()
    restamp(copy.path, schema.Identity("cluster-a", 3), b"")
    identity = schema.Identity("cluster-a", 3)
    content = copy.path.read_bytes()
    header = header_of(copy.path, identity, node="n9", version="1", size_bytes=len(content))
    with BackupWriter(file, header) as writer:
        writer.write(content)
        writer.finish(bytes.fromhex(DatabaseFiles().sha256(copy.path)))
    await node.close()
    return file


def restored(backup: Path, data_dir: Path, cluster_id: str | None = None) -> recovery.Begun:
    return recovery.restore(backup, data_dir, node="n1", address=ADDRESS, cluster_id=cluster_id)[1]


def state_of(data_dir: Path) -> tuple[Applied, int]:
    connection = schema.connect(str(data_dir / recovery.DATABASE), None)
    try:
        return schema.read_applied(connection), content_hash(connection)
    finally:
        connection.close()


def durable_of(data_dir: Path, identity: Identity) -> DurableState:
    return DurableState(RealFiles(), data_dir, identity, RaftSettings(), workers=thread_worker,
                        on_durable=lambda: None, on_error=lambda error: None)


async def opened(data_dir: Path) -> tuple[int, int, int]:
    """As a node does at its start: where its journal begins, in which term, and the term that it is in."""
    applied, _ = state_of(data_dir)
    durable = durable_of(data_dir, identities.load(RealFiles(), data_dir, node="n1"))
    await durable.open(applied.index, applied.term)
    found = durable.journal.base_index, durable.journal.base_term, durable.hard_state.durable.term
    await durable.close()
    return found


def first_entries(data_dir: Path) -> list[LogEntry]:
    """What the new epoch begins with."""

    async def read() -> list[LogEntry]:
        durable = durable_of(data_dir, identities.load(RealFiles(), data_dir, node="n1"))
        applied, _ = state_of(data_dir)
        await durable.open(applied.index, applied.term)
        try:
            last, journal = durable.journal.last_index, durable.journal
            records = await journal.read(applied.index + 1, 1 << 20) if last > applied.index else []
            assert all(record.term == durable.hard_state.durable.term for record in records)
        finally:
            await durable.close()
        return [decode_entry(record.data) for record in records]

    return asyncio.run(read())


def ended(entries: list[LogEntry], log_time_ms: int) -> list[str]:
    """The sessions that these entries end, at the log time of what was there before; they do nothing else."""
    assert {entry.time_ms for entry in entries} == {log_time_ms}
    commands = [command for entry in entries for _, command in entry.commands]
    sessions = [command.session_id for command in commands if isinstance(command, ExpireSession)]
    assert len(sessions) == len(commands)
    return sessions


# -- restore ---------------------------------------------------------------------------------------------------------


def test_what_is_restored_begins_where_the_backup_stands(backup: Path, tmp_path: Path) -> None:
    begun = restored(backup, tmp_path / "data")
    identity = identities.load(RealFiles(), tmp_path / "data", node="n1")
    assert identity == begun.identity
    assert (identity.recovery_epoch, identity.formed, identity.members) == (4, True, {"n1": ADDRESS})
    assert identity.cluster_id != "cluster-a"
    applied, scanned = state_of(tmp_path / "data")
    assert (applied.index, applied.term, applied.content_hash) == (100, 1, scanned)
    placed = configurations.decode_stored(applied.configuration, {})
    assert placed == (100, Configuration(members={"n1": Member(identity.incarnation, ADDRESS)}))
    base, term, current = asyncio.run(opened(tmp_path / "data"))
    assert (base, term) == (100, 1) and current > recovery.TERMS_SKIPPED
    assert not (tmp_path / "data" / recovery.RESTORING).exists()


def test_nobody_of_the_old_cluster_has_a_session_in_the_restored_one(backup: Path, tmp_path: Path) -> None:
    """By entries, as if a leader had missed them: what they held is handed out again by the rules for that."""
    restored(backup, tmp_path / "data")
    entries = first_entries(tmp_path / "data")
    assert sorted(ended(entries, LOG_TIME_MS)) == sorted([*SESSIONS, "of-n9", "polls"])
    assert [len(entry.commands) for entry in entries] == [ENTRY_COMMANDS_MAX, 2]


def test_nothing_is_restored_over_anything_or_into_the_same_cluster(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="with an id of its own"):
        restored(backup, tmp_path / "data", "cluster-a")
    assert not (tmp_path / "data").exists()
    restored(backup, tmp_path / "data", "b" * 32)
    with pytest.raises(DirectoryNotBlank):
        restored(backup, tmp_path / "data", "b" * 32)
    backup.write_bytes(backup.read_bytes()[:-100])
    with pytest.raises(BackupUnfit):
        restored(backup, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


class Interrupted(BaseException):
    """As when the process is killed."""


STEPS = (
    (recovery, "extract"), (recovery, "restamp"), (recovery, "_remove_journal"), (recovery, "_durable"),
    (identities, "save"),
)


def interrupt(
    monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], *, after: bool, calls_before: int = 0
) -> None:
    """The step is not taken, or is the last."""
    owner, name = place
    step: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count()

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(calls) < calls_before:
            return step(*arguments, **named)
        if after:
            step(*arguments, **named)
        raise Interrupted

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", STEPS, ids=lambda place: place[1])
def test_a_restore_that_is_interrupted_is_begun_anew(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], after: bool
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, place, after=after)
        with pytest.raises(Interrupted):
            restored(backup, tmp_path / "data")
    if place[1] == "save" and after:
        # It has come to its end, but for a file that means nothing any more.
        assert asyncio.run(opened(tmp_path / "data"))[0] == 100
        return
    # Until then it is no node's.
    with pytest.raises(IdentityError):
        identities.load(RealFiles(), tmp_path / "data")
    begun = restored(backup, tmp_path / "data")
    assert asyncio.run(opened(tmp_path / "data"))[0] == begun.applied.index == 100


# -- recover ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def survivor(backup: Path, tmp_path: Path) -> Path:
    """Of n1, n2 and n3; its journal has three more entries than its database."""
    data_dir = tmp_path / "survivor"
    identity = restored(backup, data_dir).identity
    members = {name: Member(f"i{name}", f"{name}:1") for name in ("n2", "n3")}
    members["n1"] = Member(identity.incarnation, ADDRESS)
    stored = configurations.encode_stored((100, Configuration(members=members)))
    restamp(data_dir / recovery.DATABASE, schema.Identity(identity.cluster_id, identity.recovery_epoch), stored)
    asyncio.run(_appended(data_dir, identity))
    return data_dir


async def _appended(data_dir: Path, identity: Identity) -> None:
    durable = durable_of(data_dir, identity)
    await durable.open(100, 1)
    term = durable.hard_state.durable.term
    # The workers of this cluster are there.
    durable.journal.truncate_from(101)
    durable.journal.append(101, term, EntryKind.NO_OP, b"")
    register = RegisterWorkflows("default", (json.dumps(WORKFLOW).encode(),), False)
    for index, command in ((102, register), (103, StartWorkflow("default", "one", 0, "w", IfExists.FAIL, b"{}"))):
        header = EntryHeader(1, 0, 6_000 + index, "n2")
        durable.journal.append(index, term, EntryKind.COMMANDS, encode_entry(header, [(None, command)]))
    await durable.journal.sync()
    await durable.close()


def test_what_a_survivor_has_is_told_and_nothing_is_changed(survivor: Path) -> None:
    before = state_of(survivor)
    found = recovery.position(survivor, "n1")
    assert found.others == ["n2", "n3"] and not found.is_learner
    assert (found.applied_index, found.last_index, found.log_time_ms) == (100, 103, 6_103)
    assert found.last_term > recovery.TERMS_SKIPPED
    assert state_of(survivor) == before and not recovery.is_begun(survivor, "n1")


def test_everything_that_a_survivor_has_counts_under_the_ids_of_its_epoch(survivor: Path, tmp_path: Path) -> None:
    shutil.copytree(survivor, tmp_path / "other")
    begun = recovery.recover(survivor, "n1", ADDRESS)
    before, after = identities.load(RealFiles(), tmp_path / "other"), begun.identity
    assert after.cluster_id == before.cluster_id and after.incarnation != before.incarnation
    assert (before.recovery_epoch, after.recovery_epoch) == (4, 5)
    applied, scanned = state_of(survivor)
    assert (applied.index, applied.content_hash) == (103, scanned)
    assert asyncio.run(opened(survivor))[:2] == (103, applied.term)
    # The same journal comes to the same rows, whoever applies it, and whatever the new epoch is called.
    assert recovery.recover(tmp_path / "other", "n1", ADDRESS).applied.content_hash == scanned
    with pytest.raises(recovery.NothingToRecover, match="the only member"):
        recovery.position(survivor, "n1")


def test_workers_go_on_after_a_recovery_and_the_sessions_of_nodes_have_ended(survivor: Path) -> None:
    recovery.recover(survivor, "n1", ADDRESS)
    assert ended(first_entries(survivor), 6_103) == ["of-n9"]


# Of those that open the journal the first two are for looking at it, and for applying it.
RECOVERY_STEPS = (
    (recovery, "restored_machine"), (recovery, "restamp"), (recovery, "_remove_journal"), (recovery, "_durable"),
)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", RECOVERY_STEPS, ids=lambda place: place[1])
def test_a_recovery_that_is_interrupted_is_taken_up_again(
    survivor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], after: bool
) -> None:
    """Whatever it had done, what it comes to is the same; and no node starts on what is half done."""
    shutil.copytree(survivor, tmp_path / "other")
    expected = recovery.recover(tmp_path / "other", "n1", ADDRESS).applied
    with monkeypatch.context() as patch:
        interrupt(patch, place, after=after, calls_before=2 if place[1] == "_durable" else 0)
        with pytest.raises(Interrupted):
            recovery.recover(survivor, "n1", ADDRESS)
    with pytest.raises(IdentityError, match="run `orchestrator recover` again"):
        identities.load(RealFiles(), survivor, node="n1")
    assert recovery.is_begun(survivor, "n1")
    begun = recovery.recover(survivor, "n1", ADDRESS)
    assert (begun.applied.index, begun.applied.content_hash) == (expected.index, expected.content_hash)
    assert begun.identity.recovery_epoch == 5 and not begun.identity.recovering
    assert asyncio.run(opened(survivor))[0] == 103


def test_a_damaged_survivor_is_refused_and_stays_as_it_was(survivor: Path) -> None:
    journal = survivor / "raft"
    for path in journal.iterdir():
        if path.name.startswith("hard_state"):
            path.unlink()
    with pytest.raises(JournalCorrupt):
        recovery.recover(survivor, "n1", ADDRESS)
    assert not recovery.is_begun(survivor, "n1")


def test_a_node_that_was_never_a_member_has_nothing_to_recover(tmp_path: Path) -> None:
    identities.initialise(RealFiles(), tmp_path / "blank", "c", "n1", {"n1": ADDRESS, "n2": "h:2"})
    with pytest.raises(recovery.NothingToRecover, match="was never started"):
        recovery.recover(tmp_path / "blank", "n1", ADDRESS)


def test_a_level_that_this_release_does_not_know_is_refused_before_anything_is_made(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = restored(backup, tmp_path / "data").identity
    monkeypatch.setattr(recovery, "THIS_RELEASE", Release("9.9", 2, 3))
    said = r"made by orchestrator 1, is at behaviour level 1, .* 9\.9, .* level 2 to 3"
    with pytest.raises(LevelUnsupported, match=said):
        restored(backup, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(LevelUnsupported, match="is at behaviour level 1"):
        recovery.position(tmp_path / "data", begun.node)
