"""A worker in a process of its own, to be killed: its file has each attempt that it begins, and each effect.

python -m orchestrator.verify.labourer PARENT
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.verify.attempts import Ran
from orchestrator.verify.connecting import Connecting, Told
from orchestrator.verify.work import Book, Work, only_news
from orchestrator_client import ClusterError, TaskContext, Worker

SLOTS = 24
SESSION_POLL_S = 0.05


class BookFile(Book):
    """A line for everything, there also after a kill."""

    def __init__(self, file: Path, worker: str) -> None:
        self._file = file.open("a", buffering=1, encoding="utf-8")
        self._worker = worker

    def begins(self, ctx: TaskContext) -> None:
        self.write("ran", ran=dataclasses.asdict(Ran.of(ctx)))

    def effect(self, ctx: TaskContext, key: str, *, undone: bool = False) -> None:
        self.write("effect", id=ctx.workflow_id, key=key, undone=undone)

    def write(self, kind: str, **facts: Any) -> None:
        line = {"line": kind, "worker": self._worker, "at": time.monotonic(), **facts}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


async def watch_session(worker: Worker, book: BookFile) -> None:
    """Writes down each session that it has: whoever has lost one may see its attempts handed out again."""
    known = ""
    while True:
        session = worker.session
        if session is not None and session.session_id != known:
            known = session.session_id
            book.write("session", session=known)
        await asyncio.sleep(SESSION_POLL_S)


async def main() -> None:
    told = Told()
    settings = await told.open()
    book = BookFile(Path(settings["file"]), settings["name"])
    work = Work(settings["prefix"], book)
    async with Connecting.of(settings["connecting"]).client(settings["deadline_s"]) as client:
        worker = Worker(client, work.tasks, slots=SLOTS, worker_id=f"{settings['prefix']}-{settings['name']}",
                        session_timeout_ms=settings["session_timeout_ms"], handle_signals=False)
        working = asyncio.create_task(worker.run())
        watching = asyncio.create_task(watch_session(worker, book))
        await worker.connected()
        told.say("ready")
        while await told.next() is not None:
            pass
        watching.cancel()
        await worker.stop(timeout_s=5)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(watching, working)


def run() -> None:
    die_with_parent(int(sys.argv[1]))
    try:
        with only_news():
            asyncio.run(main())
    except (ClusterError, EOFError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    run()
