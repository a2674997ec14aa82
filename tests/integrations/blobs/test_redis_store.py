"""Values in Redis: what is particular to a server that may be gone, new, full, or not let everybody do everything."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.integrations.blobs.redis_store import RedisStore
from orchestrator.integrations.blobs.store import BlobMissing, StoreUnavailable
from orchestrator.integrations.blobs.threads import Threads
from orchestrator.integrations.redis.failures import RedisRefused
from orchestrator.integrations.redis.link import RedisLink
from tests.integrations.blobs.kits import VALUE, RedisKit, link_to, ref_in, value
from tests.integrations.redis.servers import RedisServer, Servers, needs_redis, until

pytestmark = needs_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with Servers(tmp_path / "servers") as servers:
        yield servers.redis()


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[tuple[RedisLink, RedisStore]]:
    threads = Threads("blobs", 1)
    try:
        async with link_to(server.port) as link:
            store = RedisStore(link, prefix="p", cluster="c", off_loop=threads, entropy=os.urandom)
            await store.prepare()
            yield link, store
    finally:
        threads.close()


async def test_values_outlive_a_server_that_is_killed_and_meanwhile_are_unavailable(server: RedisServer) -> None:
    async with connected(server) as (link, store):
        ref = ref_in(store)
        await store.put(ref, VALUE)
        server.kill()
        with pytest.raises(StoreUnavailable, match="Redis is unavailable"):
            await store.get(ref)
        with pytest.raises(StoreUnavailable):
            await store.put(ref, VALUE)
        await until(lambda: not link.connected, "the link to be lost")
        server.restart()
        await until(lambda: link.connected, "the link to be back")
        assert await store.get(ref) == VALUE


async def test_a_server_that_has_lost_its_data_is_noticed_and_takes_more(server: RedisServer) -> None:
    async with connected(server) as (link, store):
        ref, fresh = ref_in(store), ref_in(store, value(1))
        await store.put(ref, VALUE)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.get(ref)
        await until(lambda: not link.connected, "the link to be lost")
        server.restart(keep_data=False)
        await until(lambda: link.connected, "the link to be back")
        with pytest.raises(BlobMissing, match="Redis has lost its data"):
            await store.get(ref)
        await store.put(fresh, value(1))
        assert await store.get(fresh) == value(1)
        # Of what was lost: it is the same store, for all nodes, also for those that come now.
        with pytest.raises(BlobMissing, match="is not in Redis"):
            await store.get(ref)
        async with connected(server) as (_, other):
            assert other.store_id == store.store_id
        # By whoever still has it.
        await store.put(ref, VALUE)
        assert await store.get(ref) == VALUE


async def test_who_prepares_a_server_that_has_lost_its_data_keeps_the_name(redis: RedisKit) -> None:
    store = await redis.node()
    name = store.store_id
    await redis.lose_everything()
    await store.prepare()
    assert store.store_id == name == (await redis.node()).store_id


async def test_of_two_that_make_the_store_at_once_one_gives_the_name(redis: RedisKit) -> None:
    others: list[RedisStore] = []

    class Slow:
        async def execute(self, *command: str | bytes | int) -> Any:
            if command[0] == "SET" and not others:
                others.append(redis.bare())
                await others[0].prepare()
            return await redis.execute(*command)

    threads = Threads("blobs", 1)
    slow = RedisStore(Slow(), prefix="test", cluster=redis.cluster, off_loop=threads, entropy=os.urandom)
    await slow.prepare()
    threads.close()
    assert slow.store_id == others[0].store_id


async def test_clusters_and_prefixes_are_kept_apart(redis: RedisKit) -> None:
    one = await redis.node()
    threads = Threads("blobs", 1)
    for prefix, cluster in (("test", "another"), ("another", redis.cluster)):
        other = RedisStore(redis, prefix=prefix, cluster=cluster, off_loop=threads, entropy=os.urandom)
        await other.prepare()
        assert other.store_id != one.store_id
        await other.put(ref_in(other), VALUE)
    threads.close()
    with pytest.raises(BlobMissing):
        await one.get(ref_in(one))


async def test_nothing_but_values_and_the_name_is_kept(redis: RedisKit) -> None:
    store = await redis.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    mark = redis.key_of(ref).replace(f"blob:{ref.sha256}", "blob-store")
    mine = redis.key_of(ref).replace(f"blob:{ref.sha256}", "*")
    assert sorted(await redis.execute("KEYS", mine)) == sorted([mark.encode(), redis.key_of(ref).encode()])
    assert await redis.execute("TTL", redis.key_of(ref)) == -1
    await store.delete(ref)
    assert await redis.execute("KEYS", mine) == [mark.encode()]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
async def test_a_server_that_may_evict_values_is_refused(redis: RedisKit, policy: str) -> None:
    await redis.execute("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        with pytest.raises(StoreUnavailable, match=f"its maxmemory-policy is {policy}, and must be noeviction"):
            await redis.bare().prepare()
    finally:
        await redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await redis.bare().prepare()


async def test_a_full_server_is_unavailable(server: RedisServer) -> None:
    async with connected(server) as (link, store):
        await link.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="OOM"):
            await store.put(ref_in(store), VALUE)
        await link.execute("CONFIG", "SET", "maxmemory", "0")
        await store.put(ref_in(store), VALUE)


async def test_who_may_not_ask_for_evictions_is_served(redis: RedisKit) -> None:
    class Limited:
        async def execute(self, *command: str | bytes | int) -> Any:
            if command[0] == "INFO":
                raise RedisRefused("NOPERM")
            return await redis.execute(*command)

    threads = Threads("blobs", 1)
    store = RedisStore(Limited(), prefix="test", cluster="limited", off_loop=threads, entropy=os.urandom)
    await store.prepare()
    await store.put(ref_in(store), VALUE)
    threads.close()


async def test_another_kind_of_key_is_said(redis: RedisKit) -> None:
    store = await redis.node()
    ref = ref_in(store)
    await redis.execute("SET", redis.key_of(ref), "text")
    with pytest.raises(StoreUnavailable, match="Redis refuses: WRONGTYPE"):
        await store.get(ref)


async def test_a_mark_that_is_no_name_is_refused(redis: RedisKit) -> None:
    store = await redis.node()
    await redis.execute("SET", redis.key_of(ref_in(store)).rpartition("blob:")[0] + "blob-store", "no name")
    with pytest.raises(StoreUnavailable, match="has no name of a store in it"):
        await redis.bare().prepare()
