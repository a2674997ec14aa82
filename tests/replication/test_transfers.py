"""Snapshot transfers: they go on after a broken connection and a restart, take no room without a bound, and what has
become of no use goes away."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.replication import snapshots
from orchestrator.replication.errors import SnapshotUnfit
from orchestrator.replication.files import RealFiles
from orchestrator.replication.frames import Append, Heartbeat, SnapshotAck, SnapshotBegin, SnapshotChunk
from orchestrator.replication.ports import SnapshotCopy
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.snapshot_receiver import PREFIX, SnapshotReceiver, incoming_name
from orchestrator.replication.snapshots import SnapshotSender
from orchestrator.replication.worker import Done, ThreadWorker
from tests.replication.bench import Bench, entries
from tests.replication.cluster import Cluster, Node, wait_until
from tests.replication.recording_files import RecordingFiles
from tests.replication.test_leader import leading
from tests.replication.test_snapshots import SMALL, leave_behind

CONTENT = bytes(range(256)) * 40
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()
BEGIN = SnapshotBegin(1, 50, 1, len(CONTENT), CHECKSUM, b"")
STEP = 1000


class HeldWorker:
    """Runs its jobs when it is told to."""

    def __init__(self, worker: ThreadWorker) -> None:
        self._worker = worker
        self.held: list[tuple[object, Done]] | None = None

    def submit(self, job: object, done: Done) -> None:
        if self.held is not None:
            self.held.append((job, done))
        else:
            self._worker.submit(job, done)  # type: ignore[arg-type]  # a job

    def stand_by(self) -> None: ...

    def release(self) -> None:
        held, self.held = self.held or [], None
        for job, done in held:
            self.submit(job, done)

    def close(self) -> None:
        self._worker.close()


class Receiving:
    """A follower on a bench that hears a leader, n2, send `CONTENT`."""

    def __init__(self, directory: Path, settings: RaftSettings | None = None) -> None:
        self.bench = Bench(settings=settings or RaftSettings(snapshot_chunk_bytes=STEP, snapshot_chunks_in_flight=2))
        self.directory = directory
        self.files = RecordingFiles(RealFiles())
        self.installed: list[tuple[bytes, int, int]] = []
        self.prepared: list[tuple[int, int]] = []
        self.unfit = False
        self.errors: list[BaseException] = []
        self.worker = HeldWorker(self.bench.disk.reader)
        self.receiver = self.bench.raft.receiver = SnapshotReceiver(
            self.bench.raft, self, self.files, directory, self.worker,
            installing=lambda busy: setattr(self.bench.raft.follower, "installing", busy),
            preparing=self._prepare, withdrawn=self.prepared.clear, installed=self._moved, on_error=self.errors.append,
        )
        self.receiver.take_stock()
        self.bench.hear("n2", Heartbeat(1, 0, 1))

    async def install(self, path: Path, index: int, term: int) -> None:
        if self.unfit:
            raise SnapshotUnfit("its rows are not those of its hash")
        assert self.prepared == [(index, term)]
        self.installed.append((self.files.read(path), index, term))

    async def _prepare(self, index: int, term: int) -> None:
        self.prepared.append((index, term))

    async def _moved(self, index: int, term: int, configuration: bytes) -> None:
        self.prepared.clear()
        self.bench.raft.journal.reset(index, term)
        await self.bench.settle()
        self.bench.raft.commit_index = index

    def hear(self, *messages: SnapshotBegin | SnapshotChunk | Heartbeat | Append) -> None:
        for message in messages:
            self.bench.hear("n2", message)

    def chunk(self, offset: int, size: int = STEP) -> SnapshotChunk:
        return SnapshotChunk(1, CHECKSUM, offset, CONTENT[offset : offset + size])

    def answers(self) -> list[SnapshotAck]:
        return [message for _, message in self.bench.take() if isinstance(message, SnapshotAck)]

    async def answered(self, offset: int) -> None:
        """The last answer says so."""
        said: list[SnapshotAck] = []

        def is_last() -> bool:
            said.extend(self.answers())
            return bool(said) and said[-1].offset == offset

        await wait_until(f"the answer {offset}", is_last)

    async def take(self, start: int, end: int) -> None:
        for offset in range(start, end, STEP):
            self.hear(self.chunk(offset))
            await self.answered(min(offset + STEP, len(CONTENT)))

    def partial(self) -> list[str]:
        return [name for name in self.files.listdir(self.directory) if name.startswith(PREFIX)]

    def end(self) -> None:
        self.receiver.cancel()
        self.bench.disk.close()
        assert not self.errors


async def begun(directory: Path, size: int = 3 * STEP) -> Receiving:
    receiving = Receiving(directory)
    receiving.hear(BEGIN)
    await receiving.answered(0)
    await receiving.take(0, size)
    return receiving


async def test_after_a_restart_it_goes_on_from_what_is_there(tmp_path: Path) -> None:
    (await begun(tmp_path)).end()
    again = Receiving(tmp_path)
    assert again.partial() == [incoming_name(BEGIN)]
    again.hear(BEGIN)
    await again.answered(3 * STEP)
    await again.take(3 * STEP, len(CONTENT))
    await wait_until("the install", lambda: again.installed)
    assert again.installed == [(CONTENT, 50, 1)]
    await wait_until("the file to go", lambda: again.partial() == [])
    again.end()


async def test_what_a_power_loss_damaged_is_not_trusted_and_the_same_snapshot_begins_anew(tmp_path: Path) -> None:
    (await begun(tmp_path)).end()
    path = tmp_path / incoming_name(BEGIN)
    path.write_bytes(path.read_bytes()[:-700] + bytes(700))
    again = Receiving(tmp_path)
    again.hear(BEGIN)
    await again.answered(3 * STEP)
    await again.take(3 * STEP, len(CONTENT))
    await wait_until("the file to go", lambda: again.partial() == [])
    assert not any(answer.failed or answer.installed for answer in again.answers())
    again.hear(BEGIN)
    await again.answered(0)
    await again.take(0, len(CONTENT))
    await wait_until("the install", lambda: again.installed)
    again.end()


async def test_what_the_disk_holds_at_the_end_decides_and_not_what_was_written(tmp_path: Path) -> None:
    receiving = await begun(tmp_path)
    path = tmp_path / incoming_name(BEGIN)
    content = bytearray(path.read_bytes())
    content[STEP + 1] ^= 1
    path.write_bytes(content)
    await receiving.take(3 * STEP, 10 * STEP)
    receiving.hear(receiving.chunk(10 * STEP))
    await wait_until("the refusal", lambda: any(answer.failed for answer in receiving.answers()))
    await wait_until("the file to go", lambda: receiving.partial() == [])
    assert receiving.installed == []
    receiving.end()


@pytest.mark.parametrize("other", [{"index": 51}, {"snapshot_term": 2}, {"size": 9000}, {"checksum": "0" * 64}])
async def test_another_snapshot_begins_anew_and_what_is_left_of_the_old_one_goes(
    tmp_path: Path, other: dict[str, int]
) -> None:
    (await begun(tmp_path)).end()
    again = Receiving(tmp_path)
    begin = SnapshotBegin(**{**{name: getattr(BEGIN, name) for name in BEGIN.__struct_fields__}, **other})
    again.hear(begin)
    await again.answered(0)
    await wait_until("the old file to go", lambda: again.partial() == [incoming_name(begin)])
    # And so does one that is under way.
    again.hear(BEGIN)
    await again.answered(0)
    await wait_until("the second file to go", lambda: again.partial() == [incoming_name(BEGIN)])
    again.end()


async def test_at_start_only_the_newest_is_kept_and_nothing_that_is_committed_already(tmp_path: Path) -> None:
    for index in (7, 50, 12):
        (tmp_path / incoming_name(replace_index(index))).write_bytes(b"x")
    (tmp_path / f"{PREFIX}nonsense").write_bytes(b"x")
    receiving = Receiving(tmp_path)
    assert receiving.partial() == [incoming_name(BEGIN)]
    receiving.end()


def replace_index(index: int) -> SnapshotBegin:
    return SnapshotBegin(1, index, 1, len(CONTENT), CHECKSUM, b"")


@pytest.mark.parametrize("when", ["under way", "left over"])
async def test_what_the_log_has_overtaken_goes(tmp_path: Path, when: str) -> None:
    """Another leader had the entries: a file as large as the database must not stay for nothing."""
    receiving = await begun(tmp_path)
    if when == "left over":
        receiving.end()
        receiving = Receiving(tmp_path)
    receiving.hear(Append(1, 0, 0, 60, entries(*[1] * 60)))
    await receiving.bench.settle()
    receiving.bench.tick()
    await wait_until("the file to go", lambda: receiving.partial() == [])
    assert receiving.receiver.incoming is None and receiving.bench.raft.commit_index == 60
    # Chunks that are still on their way mean nothing.
    receiving.hear(receiving.chunk(3 * STEP))
    receiving.end()


async def test_a_disk_that_stands_still_bounds_what_is_kept_in_memory(tmp_path: Path) -> None:
    """The leader asks now and then how much has arrived, and sends another window."""
    receiving = await begun(tmp_path, STEP)
    receiving.worker.held = []
    for offset in range(STEP, len(CONTENT), STEP):
        receiving.hear(BEGIN, receiving.chunk(offset))
    incoming = receiving.receiver.incoming
    assert incoming is not None
    assert incoming.expected - incoming.written <= 4 * STEP
    receiving.worker.release()
    await wait_until("the disk to catch up", lambda: incoming.written == incoming.expected)
    receiving.answers()
    await receiving.take(incoming.expected, len(CONTENT))
    await wait_until("the install", lambda: receiving.installed)
    receiving.end()


async def test_chunks_out_of_order_repeated_or_too_long_change_nothing(tmp_path: Path) -> None:
    receiving = await begun(tmp_path)
    odd = (receiving.chunk(5 * STEP), receiving.chunk(2 * STEP), receiving.chunk(3 * STEP, 0))
    receiving.hear(*odd, SnapshotChunk(1, CHECKSUM, 3 * STEP, bytes(len(CONTENT))))
    receiving.hear(SnapshotChunk(1, "0" * 64, 3 * STEP, bytes(STEP)))
    await receiving.take(3 * STEP, len(CONTENT))
    await wait_until("the install", lambda: receiving.installed)
    assert receiving.installed == [(CONTENT, 50, 1)]
    receiving.end()


async def test_a_snapshot_is_whole_and_synced_before_it_is_installed(tmp_path: Path) -> None:
    receiving = await begun(tmp_path)
    at_install: list[list[tuple[str, str]]] = []
    install = receiving.install

    async def note(path: Path, index: int, term: int) -> None:
        at_install.append(receiving.files.take())
        await install(path, index, term)

    receiving.install = note  # type: ignore[method-assign]  # looks at the disk first
    await receiving.take(3 * STEP, len(CONTENT))
    await wait_until("the install", lambda: receiving.installed)
    name = incoming_name(BEGIN)
    done = at_install[0]
    while done[-1] == ("read_at", name):
        done.pop()
    assert done[-3:] == [("write", name), ("fdatasync", name), ("sync_directory", tmp_path.name)]
    receiving.end()


async def test_a_database_that_is_unsound_is_refused_and_stops_nobody(tmp_path: Path) -> None:
    receiving = await begun(tmp_path)
    receiving.unfit = True
    await receiving.take(3 * STEP, 10 * STEP)
    receiving.hear(receiving.chunk(10 * STEP))
    said: list[SnapshotAck] = []
    await wait_until("the refusal", lambda: said.extend(receiving.answers()) or any(answer.failed for answer in said))
    assert receiving.prepared == []
    assert receiving.bench.raft.commit_index == 0 and not receiving.bench.raft.follower.installing
    receiving.unfit = False
    await wait_until("the file to go", lambda: receiving.partial() == [])
    receiving.hear(BEGIN)
    await receiving.answered(0)
    await receiving.take(0, len(CONTENT))
    await wait_until("the install", lambda: receiving.installed)
    receiving.end()


# -- whole nodes -------------------------------------------------------------------------------------------------------


async def some_chunks(follower: Node) -> int:
    await wait_until("some chunks", lambda: any(t.done_bytes > 20_000 for t in follower.log.status().transfers))
    return follower.log.status().transfers[0].done_bytes


async def test_a_transfer_goes_on_after_the_follower_was_killed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster, 3000)
        await follower.start()
        had = await some_chunks(follower)
        await follower.kill()
        name = next(path for path in (tmp_path / follower.name).iterdir() if path.name.startswith(PREFIX))
        assert had <= name.stat().st_size
        resumed: list[SnapshotAck] = []
        on_ack = leader.log._core._handlers[SnapshotAck]

        def listen(name: str, message: SnapshotAck) -> None:
            resumed.append(message)
            on_ack(name, message)

        leader.log._core._handlers[SnapshotAck] = listen
        await follower.start()
        await cluster.converged()
        assert resumed[0].offset >= had
        assert (leader.copies, follower.installs) == (1, 1)
        assert follower.applied == leader.applied


async def test_a_changed_leader_begins_anew(tmp_path: Path) -> None:
    """Its database is another file: only the same snapshot goes on."""
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster, 3000)
        await follower.start()
        await some_chunks(follower)
        await leader.kill()
        other = next(node for node in cluster.nodes.values() if node not in (leader, follower))
        assert await cluster.leader([other, follower]) is other
        await leader.start()
        await cluster.put(b"after")
        await cluster.converged()
        assert (other.copies, follower.installs) == (1, 1)
        assert not [path for path in (tmp_path / follower.name).iterdir() if path.name.startswith(PREFIX)]


async def test_who_was_told_of_an_unsound_snapshot_checks_the_next_one(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        copy, checked = leader.copy, []

        async def damaged_once(*, check: bool) -> SnapshotCopy:
            checked.append(check)
            made = await copy()
            return replace(made, checksum="0" * 64) if leader.copies == 1 else made

        leader.copy = damaged_once  # type: ignore[method-assign]  # the first copy has a wrong checksum
        await follower.start()
        await cluster.converged()
        assert checked == [False, True]
        await wait_until("the transfer to end", lambda: leader.copies_released == 2)


class Source:
    """Copies that take so long, by the bench's clock, and that no follower takes."""

    def __init__(self, bench: Bench, path: Path, took_s: float) -> None:
        self.bench, self.path, self.took_s = bench, path, took_s
        self.released = 0

    async def copy(self, *, check: bool) -> SnapshotCopy:
        self.bench.clock.now += self.took_s
        if self.took_s > 100:
            raise OSError(28, "No space left on device")
        return SnapshotCopy(self.path, 50, 1, len(CONTENT), CHECKSUM, b"", self.release)

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.01, 0.5), (7.0, 7.0), (1000.0, 60.0)])
async def test_what_nobody_takes_is_not_made_over_and_over(
    tmp_path: Path, took_s: float, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy costs as much as the database is large: the pause after one that came to nothing is as long."""
    bench = await leading()
    pauses: list[float] = []
    paused, go_on = asyncio.Event(), asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        paused.set()
        await go_on.wait()

    source = Source(bench, tmp_path / "copy", took_s)
    done: list[int | None] = []
    sender = SnapshotSender(
        bench.raft, source, RealFiles(), bench.disk.reader, lambda name, index: done.append(index)
    )
    monkeypatch.setattr(snapshots, "sleep", pause)
    sender.start("n2")
    while not paused.is_set():
        await asyncio.sleep(0)
        sender.on_ack("n2", SnapshotAck(1, CHECKSUM, 0, False, True))
    assert (pauses, done) == ([pytest.approx(pause_s)], [])
    go_on.set()
    await wait_until("the end of the transfer", lambda: done == [None])
    assert source.released == (took_s < 100)
    bench.disk.close()
