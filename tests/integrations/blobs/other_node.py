"""Another process with the same store: `other_node KIND WHERE JOB`; says `ready` when it is at work.

put        puts values over and over, and deletes them, until it is sent a line; says then how often
torn       has a value written under its temporary name, and waits to be killed
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.integrations.blobs.directory import DirectoryStore
from orchestrator.integrations.blobs.redis_store import RedisStore
from orchestrator.integrations.blobs.store import BlobStore
from orchestrator.integrations.blobs.threads import Threads
from tests.integrations.blobs.kits import VALUE, link_to, ref_in, value


@asynccontextmanager
async def store_of(kind: str, where: str) -> AsyncIterator[BlobStore]:
    threads = Threads("blobs", 2)
    if kind == "directory":
        yield DirectoryStore(Path(where), off_loop=threads, entropy=os.urandom)
        return
    port, _, cluster = where.partition("/")
    async with link_to(int(port)) as link:
        yield RedisStore(link, prefix="test", cluster=cluster, off_loop=threads, entropy=os.urandom)


async def put(store: BlobStore) -> None:
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    rounds = 0
    while not told.done():
        for number in range(3):
            content = value(number)
            await store.put(ref_in(store, content), content)
            if number:
                await store.delete(ref_in(store, content))
        rounds += 1
        if rounds == 1:
            print("ready", flush=True)
    print(rounds, flush=True)


async def torn(store: BlobStore) -> None:
    ref = ref_in(store)
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(VALUE):
            print("ready", flush=True)
            sys.stdin.readline()
        sync(descriptor)

    os.fsync = fsync
    await store.put(ref, VALUE)


async def main(kind: str, where: str, job: str) -> None:
    async with store_of(kind, where) as store:
        await store.prepare()
        await {"put": put, "torn": torn}[job](store)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
