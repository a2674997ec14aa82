"""What is written to a stream is there in order; what is read is read again until it is acknowledged, whoever reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.config import Address
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import RedisSettings
from orchestrator.integrations.redis.streams import Found, OpenAgain, Opened, Standing, StreamReader, append
from tests.integrations.redis.conftest import StartLink
from tests.integrations.redis.servers import HOST, RedisServer, Servers, needs_redis, until

pytestmark = needs_redis
GROUP = "orchestrator:default"


@pytest.fixture
def redis(servers: Servers) -> RedisServer:
    return servers.redis()


@pytest.fixture
async def link(redis: RedisServer, start_link: StartLink) -> RedisLink:
    return await start_link(RedisSettings(endpoints=(Address(HOST, redis.port),), timeout_ms=1_000))


def reader(link: RedisLink, consumer: str = "a", stream: str = "s") -> StreamReader:
    return StreamReader(link, stream, GROUP, consumer)


async def opened(link: RedisLink, cursor: str = "0-0", consumer: str = "a", *, begun: bool = False) -> StreamReader:
    made = reader(link, consumer)
    await made.open(cursor, begun=begun)
    return made


async def write(link: RedisLink, *values: int, stream: str = "s") -> None:
    written = await append(link, stream, [{"n": str(value).encode()} for value in values], 0)
    assert written == (len(values), None)


def add(redis: RedisServer, *entry_ids: str) -> None:
    for entry_id in entry_ids:
        redis.command("XADD", "s", entry_id, "n", entry_id)


def numbers(found: Sequence[Found]) -> list[int]:
    return [int(one.fields[b"n"]) for one in found]


def ids(found: Sequence[Found]) -> list[str]:
    return [one.entry_id for one in found]


def pending(redis: RedisServer) -> Any:
    return redis.command("XPENDING", "s", GROUP)["pending"]


async def test_entries_are_written_in_order(redis: RedisServer, link: RedisLink) -> None:
    entries = [{"n": str(n).encode(), "payload": bytes([n % 256, 0, 13, 10])} for n in range(1_000)]
    assert await append(link, "s", entries, 0) == (1_000, None)
    assert await append(link, "s", [], 0) == (0, None)
    following = await opened(link)
    found = await following.read_new(1_000, 0)
    assert numbers(found) == list(range(1_000))
    assert found[300].fields == {b"n": b"300", b"payload": bytes([44, 0, 13, 10])}


async def test_a_stream_keeps_about_so_many(redis: RedisServer, link: RedisLink) -> None:
    redis.command("CONFIG", "SET", "stream-node-max-entries", 10)
    await append(link, "s", [{"n": b"%d" % n} for n in range(300)], 20)
    assert 20 <= len(redis.entries("s")) <= 30
    assert redis.entries("s")[-1][1] == {"n": "299"}


async def test_a_key_of_another_type_takes_nothing_and_holds_up_nobody(redis: RedisServer, link: RedisLink) -> None:
    redis.command("SET", "s", "text")
    appended = await append(link, "s", [{"n": b"1"}, {"n": b"2"}], 0)
    assert appended.written == 0
    assert isinstance(appended.failure, RedisRefused) and appended.failure.reason.startswith("WRONGTYPE")
    await write(link, 1, stream="other")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await opened(link)
    assert link.connected


async def test_what_may_not_be_written_is_refused(redis: RedisServer, link: RedisLink) -> None:
    redis.command("ACL", "SETUSER", "default", "resetkeys", "~mine:*")
    appended = await append(link, "s", [{"n": b"1"}], 0)
    assert isinstance(appended.failure, RedisRefused) and appended.failure.reason.startswith("NOPERM")
    await write(link, 1, stream="mine:s")


async def test_without_redis_nothing_is_written(redis: RedisServer, link: RedisLink) -> None:
    await write(link, 1)
    following = await opened(link)
    redis.kill()
    assert isinstance((await append(link, "s", [{"n": b"2"}], 0)).failure, RedisUnavailable)
    with pytest.raises(RedisUnavailable):
        await following.read_new(10, 1_000)
    with pytest.raises(RedisUnavailable):
        await reader(link).open("0-0", begun=False)


async def test_what_is_read_comes_again_until_it_is_acknowledged(redis: RedisServer, link: RedisLink) -> None:
    assert await reader(link).open("0-0", begun=False) is Opened.MADE
    await write(link, 1, 2, 3)
    following = reader(link)
    assert await following.open("0-0", begun=False) is Opened.FOUND
    assert await following.read_pending(10) == []
    first = await following.read_new(2, 0)
    assert numbers(first) == [1, 2]
    assert await following.standing() == Standing(length=3, lag=1, pending=2)
    assert numbers(await following.read_pending(1)) == [1]
    await following.acknowledge(ids(first)[:1])
    assert numbers(await following.read_new(10, 0)) == [3]
    assert numbers(await following.read_pending(10)) == [2, 3]
    await following.acknowledge(ids(await following.read_pending(10)))
    assert await following.read_pending(10) == []
    assert pending(redis) == 0
    assert await following.read_new(10, 20) == []
    assert await following.lag() == 0


async def test_a_waiting_reader_gets_what_comes_and_holds_up_no_writer(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    reading = asyncio.create_task(following.read_new(10, 60_000))
    await until(lambda: redis.client().info("clients")["blocked_clients"], "the reader to wait")
    await write(link, 7)
    assert numbers(await reading) == [7]


async def test_a_reader_that_was_cancelled_has_to_be_opened_again(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    reading = asyncio.create_task(following.read_new(10, 60_000))
    await until(lambda: redis.client().info("clients")["blocked_clients"], "the reader to wait")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await write(link, 1)
    with pytest.raises(RedisUnavailable):
        await following.read_new(10, 0)
    assert link.connected
    await following.open("0-0", begun=False)
    assert numbers([*await following.read_pending(10), *await following.read_new(10, 0)]) == [1]


async def test_the_next_leader_begins_where_the_state_is(redis: RedisServer, link: RedisLink) -> None:
    before = await opened(link, consumer="before")
    await write(link, *range(1_300))
    read = await before.read_new(1_200, 0)
    await before.acknowledge(ids(read)[:3])
    after = await opened(link, ids(read)[4], consumer="after", begun=True)
    assert pending(redis) == 0 and await after.lag() == 1_295
    found = await after.read_new(1_250, 0)
    assert numbers(found) == list(range(5, 1_255))
    await after.acknowledge(ids(found))
    assert numbers(await after.read_new(200, 0)) == list(range(1_255, 1_300))


async def test_what_redis_has_forgotten_of_a_group_is_read_all_the_same(redis: RedisServer, link: RedisLink) -> None:
    """As after a crash: given up to 5-0, of which only 2-0 is known to be pending."""
    following = await opened(link)
    add(redis, *(f"{n}-0" for n in range(1, 7)))
    await following.read_new(2, 0)
    redis.command("XGROUP", "SETID", "s", GROUP, "5-0")
    assert await following.open("1-0", begun=True) is Opened.FOUND
    assert await following.read_pending(10) == []
    assert ids(await following.read_new(10, 0)) == [f"{n}-0" for n in range(2, 7)]


@pytest.mark.parametrize("consumer", ["another", "a"], ids=["another consumer", "the same one"])
async def test_nothing_is_passed_over_that_an_old_leader_was_given(
    redis: RedisServer, link: RedisLink, consumer: str
) -> None:
    old, new = await opened(link, consumer=consumer), await opened(link)
    await write(link, 1, 2, 3)
    assert numbers(await old.read_new(2, 0)) == [1, 2]
    found = await new.read_new(10, 0)
    assert numbers(found) == [1, 2, 3]
    await new.acknowledge(ids(found))
    # Given away while the new one had nothing to read.
    await write(link, 4)
    await old.read_new(1, 0)
    assert numbers(await new.read_new(10, 20)) == [4]


async def test_a_group_that_was_put_ahead_passes_over_nothing(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    add(redis, "1-0", "2-0", "3-0")
    assert ids(await following.read_new(1, 0)) == ["1-0"]
    redis.command("XGROUP", "SETID", "s", GROUP, "3-0")
    assert ids(await following.read_new(1, 20)) == ["2-0"]
    redis.command("XGROUP", "SETID", "s", GROUP, "3-0")
    add(redis, "4-0")
    assert ids(await following.read_new(10, 20)) == ["3-0", "4-0"]


async def test_a_group_that_was_put_back_gives_nothing_twice(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    await write(link, 1, 2, 3, 4)
    found = await following.read_new(3, 0)
    await following.acknowledge(ids(found)[:2])
    # As an old leader does it that is opened once more.
    await opened(link, "0-0", begun=True)
    redis.command("XGROUP", "SETID", "s", GROUP, "0-0")
    assert numbers(await following.read_new(10, 0)) == [4]
    assert numbers(await following.read_pending(10)) == [3, 4]
    await following.acknowledge(ids(await following.read_pending(10)))
    assert pending(redis) == 0


async def test_a_group_begins_behind_its_cursor(redis: RedisServer, link: RedisLink) -> None:
    add(redis, "5-0", "6-0")
    following = reader(link)
    # A handler that is new does not handle what is old, also if the stream rests since then.
    assert await following.open("100-0", begun=False) is Opened.MADE
    add(redis, "101-0")
    assert ids(await following.read_new(10, 0)) == ["101-0"]

    # Nobody has followed it for a while: what has come since then concerns nobody.
    await following.acknowledge(["101-0"])
    add(redis, "150-0", "201-0")
    assert await following.open("200-0", begun=False) is Opened.FOUND
    assert ids(await following.read_new(10, 0)) == ["201-0"]


async def test_a_restored_cluster_reads_again_what_it_has_forgotten(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    add(redis, *(f"{n}-0" for n in range(1, 7)))
    await following.read_new(4, 0)
    await following.acknowledge(["1-0", "2-0", "3-0"])
    assert await following.open("3-0", begun=True) is Opened.FOUND
    assert ids(await following.read_new(1, 0)) == ["4-0"]
    await following.acknowledge(["4-0"])
    assert await following.open("1-0", begun=True) is Opened.FOUND
    assert ids(await following.read_new(10, 0)) == ["2-0", "3-0", "4-0", "5-0", "6-0"]


async def test_a_redis_without_its_data_is_found_out(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    await write(link, 1, 2)
    cursor = ids(await following.read_new(10, 0))[-1]
    await following.acknowledge([cursor])
    redis.restart(keep_data=False)
    with pytest.raises(RedisUnavailable):
        await following.read_new(10, 0)
    await until(lambda: link.connected, "the link")
    redis.command("XADD", "s", "1-1", "n", 3)
    assert await following.open(cursor, begun=True) is Opened.DATA_LOST
    found = await following.read_new(10, 0)
    assert ids(found) == ["1-1"]
    # The cursor went back to the start, and goes on from there.
    await following.acknowledge(ids(found))
    redis.command("XADD", "s", "1-2", "n", 4)
    assert await following.open("1-1", begun=True) is Opened.FOUND
    assert ids(await following.read_new(10, 0)) == ["1-2"]


async def test_a_redis_that_is_older_than_it_was_is_found_out(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    add(redis, "1-0", "2-0")
    await following.read_new(10, 0)
    await following.acknowledge(["1-0"])
    # Had the stream got to 9-0 before, and had all of that been taken up:
    assert await following.open("9-0", begun=True) is Opened.DATA_LOST
    add(redis, "3-0")
    for cursor, found in (("9-0", Opened.DATA_LOST), ("0-0", Opened.FOUND)):
        assert await following.open(cursor, begun=True) is found
        assert ids(await following.read_new(10, 0)) == ["2-0", "3-0"]


async def test_an_older_redis_is_found_out_when_it_has_gone_on(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    add(redis, "1-0", "2-0")
    await following.read_new(1, 0)
    await following.acknowledge(["1-0"])
    # The one that was lost had got to 5-0, which was taken up.
    add(redis, "4-0", "6-0")
    assert await following.open("5-0", begun=True) is Opened.DATA_LOST
    assert ids(await following.read_new(10, 0)) == ["2-0", "4-0", "6-0"]


@pytest.mark.parametrize("gone", [("XDEL", "s", "2-0"), ("XTRIM", "s", "MINID", "3")], ids=["deleted", "trimmed"])
async def test_an_entry_that_was_deleted_was_there(redis: RedisServer, link: RedisLink, gone: tuple[str, ...]) -> None:
    following = await opened(link)
    add(redis, "1-0", "2-0", "3-0")
    await following.read_new(2, 0)
    await following.acknowledge(["1-0", "2-0"])
    redis.command(*gone)
    assert await following.open("2-0", begun=True) is Opened.FOUND
    assert ids(await following.read_new(10, 0)) == ["3-0"]


async def test_data_that_stay_are_no_loss(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    await write(link, 1, 2)
    found = await following.read_new(10, 0)
    await following.acknowledge(ids(found)[:1])
    redis.restart()
    with pytest.raises(RedisUnavailable):
        await following.read_new(10, 0)
    await until(lambda: link.connected, "the link")
    assert await following.open(ids(found)[0], begun=True) is Opened.FOUND
    assert numbers(await following.read_new(10, 0)) == [2]


@pytest.mark.parametrize("deletion", [("DEL", "s"), ("XGROUP", "DESTROY", "s", GROUP), ("FLUSHALL",)], ids=str)
async def test_a_group_that_is_gone_has_to_be_opened_again(
    redis: RedisServer, link: RedisLink, deletion: tuple[str, ...]
) -> None:
    following = await opened(link)
    with pytest.raises(OpenAgain, match="not open"):
        await reader(link).read_new(1, 0)
    await write(link, 1)
    redis.command(*deletion)
    for again in (following.read_new(1, 0), following.read_new(1, 20)):
        with pytest.raises(OpenAgain, match="NOGROUP"):
            await again
    assert (await following.standing()).pending == 0
    await following.open("0-0", begun=False)
    assert len(await following.read_new(1, 0)) == len(redis.entries("s"))


async def test_entries_that_were_trimmed_are_skipped_and_it_is_said(
    redis: RedisServer, link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    following = await opened(link)
    await write(link, 1, 2, 3, 4)
    await following.read_new(3, 0)
    redis.command("XTRIM", "s", "MAXLEN", 1)
    assert await following.read_pending(2) == []
    told = [record.__dict__["entries"] for record in caplog.records if "have vanished" in record.message]
    assert sum(told) == 3 and pending(redis) == 0
    assert numbers(await following.read_new(10, 0)) == [4]


async def test_what_others_write_may_be_anything(redis: RedisServer, link: RedisLink) -> None:
    following = await opened(link)
    redis.command("XADD", "s", "*", b"\xff\x00", b"\xfe", "", "")
    assert (await following.read_new(1, 0))[0].fields == {b"\xff\x00": b"\xfe", b"": b""}


async def test_names_that_others_have_given_need_not_be_text(redis: RedisServer, link: RedisLink) -> None:
    add(redis, "1-0")
    redis.command("XGROUP", "CREATE", "s", b"\xff", "0-0")
    following = await opened(link)
    redis.command("XREADGROUP", "GROUP", GROUP, b"\xfe", "STREAMS", "s", ">")
    assert ids(await following.read_new(10, 0)) == ["1-0"]
    assert (await following.standing()).pending == 1
