"""Jobs of a thread are told of on the loop, once, whether somebody stands by or not."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest

from orchestrator.replication import worker as workers
from orchestrator.replication.files import RealFiles
from orchestrator.replication.worker import IMPATIENT_JOBS_MAX, IMPATIENT_JOBS_MIN, ThreadWorker
from tests.replication.cluster import wait_until
from tests.replication.journals import Disk
from tests.replication.recording_files import RecordingFiles

A_LONG_TIME_S = 60.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands by does so until the job ends, however slow the machine is."""
    monkeypatch.setattr(workers, "PATIENCE_S", A_LONG_TIME_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job ends in time."""
    monkeypatch.setattr(workers, "PATIENCE_S", 0.0)


@pytest.mark.usefixtures("patient")
async def test_who_stands_by_is_told_before_the_loop_turns() -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), "test")
    told: list[BaseException | None] = []
    worker.submit(lambda: None, told.append)
    worker.stand_by()
    assert told == [None]
    error = OSError(5, "Input/output error")

    def fail() -> None:
        raise error

    worker.submit(fail, told.append)
    worker.stand_by()
    assert told == [None, error]
    worker.stand_by()  # there is nothing to wait for
    worker.close()
    await asyncio.sleep(0)
    assert told == [None, error]


@pytest.mark.usefixtures("impatient")
async def test_who_stood_by_in_vain_is_told_by_the_loop() -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), "test")
    told: list[BaseException | None] = []
    may_end = threading.Event()
    worker.submit(lambda: may_end.wait(A_LONG_TIME_S) and None, told.append)
    worker.stand_by()
    assert told == []
    may_end.set()
    await wait_until("the job is told of", lambda: told == [None])
    worker.close()


async def test_after_waiting_in_vain_nobody_waits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), "test")
    waited: list[int] = []
    submitted = 0

    def in_vain(job: object, timeout_s: float) -> bool:
        waited.append(submitted)
        return False

    monkeypatch.setattr(workers._Job, "wait", in_vain)
    while len(waited) < 4:
        worker.submit(lambda: None, lambda error: None)
        worker.stand_by()
        submitted += 1
    pauses = [after - before - 1 for before, after in itertools.pairwise(waited)]
    assert pauses == [IMPATIENT_JOBS_MIN, 2 * IMPATIENT_JOBS_MIN, 4 * IMPATIENT_JOBS_MIN]
    assert worker._impatient_next <= IMPATIENT_JOBS_MAX
    worker.close()


async def test_each_job_is_told_of_once_however_close_its_end_is(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ThreadWorker(asyncio.get_running_loop(), "test")
    told: list[int] = []
    for number in range(3_000):
        # Some have ended before, some end while somebody waits, some just when that is given up.
        monkeypatch.setattr(workers, "PATIENCE_S", (0.0, 0.00002, A_LONG_TIME_S)[number % 3])
        monkeypatch.setattr(worker, "_impatient_jobs", 0)
        worker.submit(lambda: None, lambda error, number=number: told.append(number))  # type: ignore[misc]
        if number % 7:
            worker.stand_by()
        if number % 5 == 0:
            await asyncio.sleep(0)
    await wait_until("all jobs are told of", lambda: len(told) >= 3_000)
    worker.close()
    await asyncio.sleep(0)
    assert sorted(told) == list(range(3_000))


@pytest.mark.usefixtures("patient")
async def test_what_was_appended_may_be_durable_when_the_flush_returns(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 3)
    disk.journal.flush(stand_by=True)
    assert (disk.journal.durable_index, disk.durable_moved) == (3, 1)
    disk.fill(4, 4)
    disk.journal.flush()
    assert disk.journal.durable_index == 3
    await wait_until("the entry is durable", lambda: disk.journal.durable_index == 4)
    disk.close()


@pytest.mark.usefixtures("patient")
async def test_a_sync_that_fails_while_somebody_stands_by_is_final(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    error = OSError(5, "Input/output error")

    def before(asked: str, name: str) -> None:
        if asked == "fdatasync":
            raise error

    files.before = before
    disk.fill(1, 1)
    disk.journal.flush(stand_by=True)
    assert disk.errors == [error]
    assert disk.journal.durable_index == 0
    files.before = lambda asked, name: None
    disk.fill(2, 2)
    disk.journal.flush(stand_by=True)
    await asyncio.sleep(0)
    assert disk.errors == [error]
    assert disk.journal.durable_index == 0
    disk.close()
