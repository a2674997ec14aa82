"""A link that heals: whatever happens to Redis, callers fail at once, and go on when it is back."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from pathlib import Path

import pytest

from orchestrator.config import Address
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import Identity, RedisSettings, TlsFiles
from tests.integrations.redis.conftest import StartLink
from tests.integrations.redis.servers import HOST, Servers, needs_redis, until
from tests.replication.certificates import Authority, needs_openssl

pytestmark = needs_redis


def at(*ports: int, **settings: object) -> RedisSettings:
    return dataclasses.replace(RedisSettings(endpoints=tuple(Address(HOST, port) for port in ports)), **settings)


def as_user(name: str, password_file: Path) -> Identity:
    return Identity(name, password_file, "redis_password_file")


async def fails(link: RedisLink, *command: str | bytes | int) -> RedisUnavailable:
    with pytest.raises(RedisUnavailable) as found:
        await link.execute(*command)
    return found.value


async def test_values_and_transactions(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    link = await start_link(at(redis.port, database=3, client_name="orchestrator-a"))
    assert link.connected and link.address == Address(HOST, redis.port) and not link.last_error

    large = bytes(range(256)) * 20_000
    assert await link.execute("SET", "blob", large) == b"OK"
    assert await link.execute("GET", "blob") == large
    assert [await link.execute("UNLINK", "blob") for _ in range(2)] == [1, 0]
    assert await link.execute("GET", "blob") is None

    assert await link.transact([("SET", "n", 1), ("INCR", "n")]) == [b"OK", 2]
    assert redis.command("INFO", "keyspace")["db3"]["keys"] == 1
    # One that fails when it is its turn; the others are done.
    refused = (await link.transact([("SET", "t", "x"), ("LPUSH", "t", 1)]))[1]
    assert isinstance(refused, RedisRefused) and refused.reason.startswith("WRONGTYPE")
    # One that Redis would not even try; none is done.
    with pytest.raises(RedisRefused, match="unknown command"):
        await link.transact([("SET", "t", "y"), ("NO-COMMAND",)])
    assert await link.execute("GET", "t") == b"x"
    assert all(each["name"] == "orchestrator-a" for each in redis.client().client_list() if each["db"] == "3")
    assert link.failures == 0


async def test_many_at_once_share_a_few_connections(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    link = await start_link(at(redis.port, client_name="me"))
    assert sorted(await asyncio.gather(*(link.execute("INCR", "n") for _ in range(200)))) == list(range(1, 201))
    refused = await asyncio.gather(*(link.execute("LPUSH", "n", 1) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(each, RedisRefused) for each in refused)
    assert sum(each["name"] == "me" for each in redis.client().client_list()) <= 9
    # What a caller gave up is no answer to the next one.
    for _ in range(20):
        asked = [asyncio.create_task(link.execute("GET", "n")) for _ in range(3)]
        await asyncio.sleep(0)
        asked[0].cancel()
        assert (await asyncio.gather(*asked, return_exceptions=True))[1:] == [b"200", b"200"]
        assert await link.execute("ECHO", "mine") == b"mine"


async def test_killed_and_started_again(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    link = await start_link(at(redis.port))
    await link.execute("SET", "kept", "yes")
    blocked = await link.line()
    waiting = asyncio.create_task(blocked.ask("BLPOP", "nothing", 0, wait_ms=60_000))
    await until(lambda: redis.client().info("clients")["blocked_clients"], "a blocked client")
    redis.kill()
    with pytest.raises(RedisUnavailable):
        await waiting
    await until(lambda: not link.connected, "the link to be lost")
    assert f"{HOST}:{redis.port}" in str(await fails(link, "GET", "kept"))
    assert str(redis.port) in link.last_error
    redis.start()
    async with asyncio.timeout(60):
        await link.wait_connected()
    assert await link.execute("GET", "kept") == b"yes"
    assert link.failures >= 1 and not link.last_error
    with pytest.raises(RedisUnavailable):
        await blocked.ask("PING")


async def test_there_may_be_no_redis_yet(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    redis.stop()
    link = await start_link(at(redis.port), connected=False)
    assert "not connected" in str(await fails(link, "PING"))
    await until(lambda: link.failures >= 2, "two tries")
    assert "refused" in link.last_error.lower() or "Connect call failed" in link.last_error
    redis.start()
    async with asyncio.timeout(60):
        await link.wait_connected()


async def test_a_server_that_hangs_holds_up_nobody(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    link = await start_link(at(redis.port, timeout_ms=300))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    turning = asyncio.create_task(turn())
    redis.pause()
    # More than the socket takes: what is written waits, too.
    stuck = await asyncio.gather(*(link.execute("SET", "k", b"x" * 8_000_000) for _ in range(3)),
                                 *(link.execute("GET", "k") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, RedisUnavailable) for each in stuck)
    await until(lambda: not link.connected, "the link to be lost")
    assert "no answer within 300 ms" in link.last_error
    assert turns > 20, "the loop stood still"
    turning.cancel()
    redis.resume()
    async with asyncio.timeout(60):
        await link.wait_connected()
    assert await link.execute("PING") == b"PONG"


async def test_an_idle_link_notices_that_it_is_cut(
    servers: Servers, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.integrations.redis.link.LOOK_S", 0.05)
    redis = servers.redis()
    link = await start_link(at(redis.port))
    redis.kill()
    await until(lambda: not link.connected, "the link to be lost")


async def test_a_wrong_password_is_said_until_the_file_is_right(
    servers: Servers, start_link: StartLink, tmp_path: Path
) -> None:
    redis = servers.redis(users=["user app on >right ~app:* +@connection +set +get"])
    file = tmp_path / "password"
    settings = at(redis.port, redis=as_user("app", file))
    link = await start_link(settings, connected=False)
    await until(lambda: "can't be read" in link.last_error, "the missing file")
    assert f"redis_password_file: {file}" in link.last_error
    file.write_text("wrong\n")
    await until(lambda: "WRONGPASS" in link.last_error, "the refusal")
    assert "does not let the user 'app' in, see redis_password_file" in link.last_error
    assert "wrong" not in link.last_error.replace("WRONGPASS", "")
    file.write_text("right\n")
    async with asyncio.timeout(60):
        await link.wait_connected()
    await link.execute("SET", "app:1", "x")
    with pytest.raises(RedisRefused, match="NOPERM"):
        await link.execute("SET", "other", "x")
    with pytest.raises(RedisRefused, match="NOPERM"):
        await link.transact([("SET", "app:2", "x"), ("SET", "other", "x")])
    assert link.connected

    # Exchanged while it runs: the next connection is made with the new one.
    redis.command("ACL", "SETUSER", "app", ">newer", "<right")
    file.write_text("newer\n")
    redis.command("CLIENT", "KILL", "USER", "app")
    redis.command("CLIENT", "KILL", "USER", "app")

    async def is_let_in() -> bool:
        try:
            return await link.execute("SET", "app:1", "y") == b"OK"
        except RedisUnavailable:
            return False

    await until(is_let_in, "the newer password")


async def test_a_server_that_asks_for_a_password(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    redis = servers.redis(password="secret")
    link = await start_link(at(redis.port), connected=False)
    await until(lambda: "NOAUTH" in link.last_error, "the refusal")
    (tmp_path / "password").write_text("secret")
    await start_link(at(redis.port, redis=as_user("", tmp_path / "password")))


@needs_openssl
async def test_tls(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    redis = servers.redis(tls=authority.sign("redis"), tls_clients=True)
    mine, foreign = authority.sign("node"), other.sign("node")
    good = TlsFiles(authority.certificate, mine.certificate, mine.key)
    link = await start_link(at(redis.port, tls=good))
    assert await link.execute("PING") == b"PONG"

    told = {
        "CERTIFICATE_VERIFY_FAILED": dataclasses.replace(good, ca=other.certificate),
        "redis_tls_ca_file": dataclasses.replace(good, ca=mine.key),
        "redis_tls_cert_file": dataclasses.replace(good, key=foreign.key),
        "redis_tls_key_file": dataclasses.replace(good, key=tmp_path / "none"),
        f"{HOST}:{redis.port}": dataclasses.replace(good, certificate=None, key=None),
    }
    for word, files in told.items():
        wrong = await start_link(at(redis.port, tls=files), connected=False)
        await until(lambda wrong=wrong, word=word: word in wrong.last_error, word)
    without = await start_link(at(redis.port), connected=False)
    await until(lambda: without.last_error, "a server that wants TLS")


@needs_openssl
async def test_certificates_are_read_again(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    file = tmp_path / "ca.pem"
    file.write_bytes(other.certificate.read_bytes())
    redis = servers.redis(tls=authority.sign("redis"))
    link = await start_link(at(redis.port, tls=TlsFiles(file)), connected=False)
    await until(lambda: "CERTIFICATE_VERIFY_FAILED" in link.last_error, "the refusal")
    file.write_bytes(authority.certificate.read_bytes())
    async with asyncio.timeout(60):
        await link.wait_connected()


@needs_openssl
async def test_sentinels_lead_to_the_next_master(servers: Servers, start_link: StartLink, tmp_path: Path) -> None:
    """As it is in production: with TLS everywhere, and users at Redis and at the Sentinels."""
    authority = Authority(tmp_path)
    secure = {"tls": authority.sign("redis"), "tls_clients": True}
    users = ["user app on >r ~* +@all"]
    first = servers.redis("first", users=users, **secure)
    second = servers.redis("second", replica_of=first, users=users, **secure)
    watcher = "user watcher on >s +@connection +sentinel|get-master-addr-by-name"
    sentinel = servers.sentinel(first, users=[watcher], **secure)
    await until(lambda: sentinel.knows_replicas(1), "the replica to be known")
    (tmp_path / "redis").write_text("r")
    (tmp_path / "sentinel").write_text("s")
    gone = servers.redis("gone")
    gone.kill()
    mine = authority.sign("node")
    settings = at(gone.port, sentinel.port, sentinel_master="main", timeout_ms=500,
                  tls=TlsFiles(authority.certificate, mine.certificate, mine.key),
                  redis=as_user("app", tmp_path / "redis"),
                  sentinel=Identity("watcher", tmp_path / "sentinel", "redis_sentinel_password_file"))
    link = await start_link(settings)
    assert link.address == Address(HOST, first.port)
    await link.execute("SET", "k", "v")
    await until(lambda: second.command("GET", "k") == "v", "the replica to have it")

    # Not dead but deaf: it comes back later, and still takes itself for the master.
    first.pause()
    await until(lambda: link.address == Address(HOST, second.port), "the new master")
    assert await link.execute("GET", "k") == b"v"
    await link.execute("SET", "k", "w")
    first.resume()
    assert first.replication()["role"] == "master"
    assert await link.execute("GET", "k") == b"w"


async def test_an_old_master_is_left_although_it_answers(
    servers: Servers, start_link: StartLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Sentinels do not reach it, and this node does: what it takes would be lost."""
    monkeypatch.setattr("orchestrator.integrations.redis.link.LOOK_S", 0.05)
    old, new = servers.redis("old"), servers.redis("new")
    sentinel = servers.sentinel(old)
    link = await start_link(at(sentinel.port, sentinel_master="main"))
    assert link.address == Address(HOST, old.port)
    sentinel.command("SENTINEL", "REMOVE", "main")
    sentinel.command("SENTINEL", "MONITOR", "main", HOST, new.port, 1)
    await until(lambda: link.address == Address(HOST, new.port), "the new master")
    # Without Sentinels it stays where it is.
    sentinel.kill()
    for _ in range(20):
        assert await link.execute("PING") == b"PONG"
        await asyncio.sleep(0.01)


async def test_what_sentinels_do_not_know(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    sentinel = servers.sentinel(redis)
    link = await start_link(at(sentinel.port, sentinel_master="other"), connected=False)
    await until(lambda: "knows no master 'other', see redis_sentinel_master" in link.last_error, "the reason")


async def test_a_master_that_was_set_back_is_left(servers: Servers, start_link: StartLink) -> None:
    redis, other = servers.redis("redis"), servers.redis("other")
    link = await start_link(at(redis.port))
    redis.command("REPLICAOF", HOST, other.port)
    failure = await fails(link, "SET", "k", "v")
    assert failure.lost and "READONLY" in str(failure) and not link.connected
    await until(lambda: "is no master but a slave" in link.last_error, "what it is now")
    redis.command("REPLICAOF", "NO", "ONE")
    async with asyncio.timeout(60):
        await link.wait_connected()
    await link.execute("SET", "k", "v")


async def test_a_sentinel_is_not_taken_for_a_redis(servers: Servers, start_link: StartLink) -> None:
    link = await start_link(at(servers.sentinel(servers.redis()).port), connected=False)
    await until(lambda: "a Sentinel, see redis_sentinel_master" in link.last_error, "what it is")


async def test_a_full_server_passes(servers: Servers, start_link: StartLink) -> None:
    redis = servers.redis()
    link = await start_link(at(redis.port))
    redis.command("CONFIG", "SET", "maxmemory", 1)
    for attempt in (link.execute("SET", "k", "v"), link.transact([("SET", "k", "v")])):
        with pytest.raises(RedisUnavailable, match="OOM") as found:
            await attempt
        assert not found.value.lost
    assert link.connected
    redis.command("CONFIG", "SET", "maxmemory", 0)
    assert await link.transact([("SET", "k", "v")]) == [b"OK"]


async def test_it_may_run_again(servers: Servers) -> None:
    redis = servers.redis()
    link = RedisLink(at(redis.port), monotonic=time.monotonic, random=random.Random(1))
    for _ in range(2):
        running = asyncio.create_task(link.run())
        async with asyncio.timeout(60):
            await link.wait_connected()
        assert await link.execute("PING") == b"PONG"
        waiting = asyncio.create_task((await link.line()).ask("BLPOP", "nothing", 0, wait_ms=60_000))
        await until(lambda: redis.client().info("clients")["blocked_clients"], "a blocked client")
        running.cancel()
        with pytest.raises(RedisUnavailable):
            await waiting
        await asyncio.wait([running])
        assert not link.connected and not link.failures
        await fails(link, "PING")
    await until(lambda: not redis.client().info("clients")["blocked_clients"], "the connections to be closed")
