"""The rights that the page names are enough for all that nodes ask of Redis, and each of them is used."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

from orchestrator.config import Address
from orchestrator.engine.blobs import BlobRef
from orchestrator.integrations.blobs.redis_store import RedisStore
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import Identity, RedisSettings
from orchestrator.integrations.redis.streams import Opened, StreamReader, append
from tests.integrations.redis.conftest import StartLink
from tests.integrations.redis.servers import HOST, Servers, needs_redis, until

pytestmark = needs_redis
PAGE = Path(__file__).parents[3] / "orchestrator/integrations/redis/REDIS.md"
REDIS, SENTINEL = re.findall(r"^user orchestrator .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def rights(line: str) -> set[str]:
    return {word[1:] for word in line.split() if word.startswith("+")}


async def use_streams(link: RedisLink) -> None:
    assert await append(link, "s", [{"n": b"%d" % n} for n in range(4)], 100) == (4, None)
    old, new = (StreamReader(link, "s", "g", consumer) for consumer in ("old", "new"))
    assert await old.open("0-1", begun=False) is Opened.MADE
    first = (await old.read_new(1, 0))[0].entry_id
    assert await new.open(first, begun=True) is Opened.FOUND
    await old.read_new(1, 0)
    found = await new.read_new(2, 10)
    assert len(found) == 2
    assert await new.open(first, begun=True) is Opened.FOUND
    await new.acknowledge([one.entry_id for one in await new.read_new(10, 0)])
    assert (await new.standing()).pending == 0


async def use_values(link: RedisLink) -> None:
    store = RedisStore(link, prefix="p", cluster="c", off_loop=asyncio.to_thread, entropy=os.urandom)
    await store.prepare()
    ref = BlobRef(store.store_id, hashlib.sha256(b"1").hexdigest(), 1)
    await store.put(ref, b"1")
    assert await store.get(ref) == b"1"
    await store.delete(ref, await store.version(ref))


async def test_the_rights_at_redis(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    redis = servers.redis(users=[REDIS.replace("PASSWORD", "secret")])
    (tmp_path / "password").write_text("secret")
    identity = Identity("orchestrator", tmp_path / "password", "redis_password_file")
    redis.command("CONFIG", "RESETSTAT")
    link = await start_link(RedisSettings(endpoints=(Address(HOST, redis.port),), redis=identity, database=1,
                                          client_name="orchestrator-a"))
    await use_streams(link)
    await use_values(link)
    denied = redis.command("ACL", "LOG")
    assert not denied, denied
    used = {name.removeprefix("cmdstat_") for name in redis.command("INFO", "commandstats")}
    assert rights(REDIS) - used - {each.partition("|")[0] for each in used} == set()


async def test_without_those_that_only_inform(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    line = REDIS.replace("PASSWORD", "secret")
    for right in (" +client|setname", " +role", " +info"):
        assert right in line
        line = line.replace(right, "")
    redis = servers.redis(users=[line])
    (tmp_path / "password").write_text("secret")
    link = await start_link(RedisSettings(
        endpoints=(Address(HOST, redis.port),), client_name="orchestrator-a",
        redis=Identity("orchestrator", tmp_path / "password", "redis_password_file")))
    await use_streams(link)
    await use_values(link)


async def test_the_rights_at_a_sentinel(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    redis = servers.redis()
    sentinel = servers.sentinel(redis, users=[SENTINEL.replace("PASSWORD", "secret")])
    (tmp_path / "password").write_text("secret")
    link = await start_link(RedisSettings(
        endpoints=(Address(HOST, sentinel.port),), sentinel_master="main",
        sentinel=Identity("orchestrator", tmp_path / "password", "redis_sentinel_password_file")))
    await until(lambda: link.address == Address(HOST, redis.port), "the master")
    assert not sentinel.command("ACL", "LOG")
