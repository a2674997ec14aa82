"""What every store promises, each kind of it: whole values, no more and no less, however many nodes there are."""

from __future__ import annotations

import asyncio
import re

import pytest

from orchestrator.engine.blobs import BlobRef, is_store_id, ref_to
from orchestrator.integrations.blobs.store import BlobCorrupt, BlobMissing, StoreUnavailable
from tests.integrations.blobs.kits import VALUE, Kit, ref_in, value
from tests.integrations.blobs.processes import OtherNode


async def test_a_value_is_got_where_it_was_put_elsewhere(kit: Kit) -> None:
    one, other = await kit.node(), await kit.node()
    assert one.store_id == other.store_id
    assert is_store_id(one.store_id)
    for content in (VALUE, b'""', b"\x00\xff\r\n" * 1000, value(1, 8 << 20)):
        ref = ref_in(one, content)
        await one.put(ref, content)
        assert await other.get(ref) == content
        assert await kit.held(ref) == content


async def test_nodes_that_come_at_once_agree_on_the_store(kit: Kit) -> None:
    nodes = await asyncio.gather(*[kit.node() for _ in range(5)])
    assert len({node.store_id for node in nodes}) == 1
    await nodes[0].prepare()
    assert nodes[0].store_id == nodes[1].store_id


async def test_what_was_not_prepared_says_so(kit: Kit) -> None:
    store = kit.bare()
    with pytest.raises(StoreUnavailable):
        _ = store.store_id
    with pytest.raises(StoreUnavailable):
        await store.put(ref_to("s", VALUE), VALUE)
    with pytest.raises(StoreUnavailable):
        await store.get(ref_to("s", VALUE))


async def test_what_was_never_put_is_missing(kit: Kit) -> None:
    store = await kit.node()
    with pytest.raises(BlobMissing):
        await store.get(ref_in(store))
    assert await store.version(ref_in(store)) == ""


async def test_what_is_put_twice_is_there_once_and_stays_as_it_is(kit: Kit) -> None:
    one, other = await kit.node(), await kit.node()
    ref = ref_in(one)
    await one.put(ref, VALUE)
    version = await one.version(ref)
    assert version
    await other.put(ref, VALUE)
    assert await other.version(ref) == version


async def test_what_is_deleted_is_missing_and_can_be_put_again(kit: Kit) -> None:
    store = await kit.node()
    ref, kept = ref_in(store), ref_in(store, value(1))
    await store.put(ref, VALUE)
    await store.put(kept, value(1))
    await store.delete(ref)
    await store.delete(ref)
    assert await kit.held(ref) is None
    with pytest.raises(BlobMissing):
        await store.get(ref)
    await store.put(ref, VALUE)
    assert await store.get(ref) == VALUE
    assert await store.get(kept) == value(1)


async def test_who_comes_late_does_not_delete_what_was_put_since(kit: Kit) -> None:
    slow, quick = await kit.node(), await kit.node()
    ref = ref_in(slow)
    await slow.put(ref, VALUE)
    version = await slow.version(ref)
    await quick.delete(ref, await quick.version(ref))
    await quick.put(ref, VALUE)
    await slow.delete(ref, version)
    await slow.delete(ref, "")
    assert await quick.get(ref) == VALUE
    await slow.delete(ref, await slow.version(ref))
    assert await kit.held(ref) is None


DAMAGES = {
    "another": value(1, len(VALUE)),
    "truncated": VALUE[:-1],
    "empty": b"",
    "longer": VALUE + b" ",
    "a bit": VALUE[:5000] + b"y" + VALUE[5001:],
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_damaged_is_not_got_and_put_whole_again(kit: Kit, damage: str) -> None:
    store = await kit.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    version = await store.version(ref)
    await kit.hold(ref, DAMAGES[damage])
    with pytest.raises(BlobCorrupt):
        await store.get(ref)
    await store.put(ref, VALUE)
    assert await store.get(ref) == VALUE
    assert await store.version(ref) != version


async def test_what_is_damaged_can_be_deleted(kit: Kit) -> None:
    store = await kit.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    await kit.hold(ref, b"")
    await store.delete(ref)
    with pytest.raises(BlobMissing):
        await store.get(ref)


@pytest.mark.parametrize("size", [0, -1])
async def test_what_is_not_the_references_content_is_not_put(kit: Kit, size: int) -> None:
    store = await kit.node()
    ref = BlobRef(store.store_id, ref_in(store).sha256, len(VALUE) + size)
    with pytest.raises(BlobCorrupt, match="what is to be put"):
        await store.put(ref, VALUE[:-1] + b"]" if size == 0 else VALUE)
    assert await kit.held(ref) is None


async def test_references_to_another_store_are_told_apart(kit: Kit) -> None:
    store = await kit.node()
    ref = ref_to("dir-of-others", VALUE)
    await store.put(ref_in(store), VALUE)
    with pytest.raises(BlobMissing, match=f"in the store dir-of-others, and .* is the store {store.store_id}"):
        await store.get(ref)
    with pytest.raises(BlobMissing):
        await store.delete(ref)
    with pytest.raises(StoreUnavailable, match="not dir-of-others"):
        await store.put(ref, VALUE)
    assert await store.get(ref_in(store)) == VALUE


async def test_many_put_the_same_and_others_at_once(kit: Kit) -> None:
    nodes = [await kit.node() for _ in range(3)]
    contents = [value(number) for number in range(8)]
    puts = [node.put(ref_in(node, content), content) for content in contents for node in nodes]
    await asyncio.gather(*puts)
    for content in contents:
        assert await nodes[0].get(ref_in(nodes[0], content)) == content


async def test_of_puts_and_deletes_at_once_a_whole_value_is_left_or_none(kit: Kit) -> None:
    one, other = await kit.node(), await kit.node()
    ref = ref_in(one)
    for _ in range(10):
        await asyncio.gather(one.put(ref, VALUE), other.delete(ref), one.delete(ref), other.put(ref, VALUE))
        assert await kit.held(ref) in (VALUE, None)
    await one.put(ref, VALUE)
    assert await other.get(ref) == VALUE


async def test_another_store_in_its_place_is_noticed(kit: Kit) -> None:
    store = await kit.node()
    ref, fresh = ref_in(store), ref_in(store, value(1))
    await store.put(ref, VALUE)
    await kit.swap()
    said = re.escape(f"was the store {store.store_id}")
    with pytest.raises(StoreUnavailable, match=said):
        await store.put(fresh, value(1))
    with pytest.raises(StoreUnavailable, match=said):
        await store.get(ref)
    with pytest.raises(StoreUnavailable, match=said):
        await store.version(ref)
    with pytest.raises(StoreUnavailable, match=said):
        await store.prepare()
    other = await kit.node()
    with pytest.raises(BlobMissing, match="has lost its data"):
        await other.get(ref)


async def test_a_store_that_does_not_answer_is_unavailable(kit: Kit) -> None:
    store = await kit.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    kit.cut_off()
    for call in (store.put(ref, VALUE), store.get(ref), store.version(ref), store.delete(ref), store.prepare()):
        with pytest.raises(StoreUnavailable):
            await call


async def test_two_processes_put_and_delete_the_same(kit: Kit) -> None:
    store = await kit.node()
    contents = [value(number) for number in range(3)]
    async with OtherNode(kit, "put") as other:
        for _ in range(20):
            for content in contents:
                ref = ref_in(store, content)
                await store.put(ref, content)
                assert await kit.held(ref) in (content, None)
                if content is not contents[0]:
                    await store.delete(ref)
        assert int(await other.told()) >= 1
    # Nobody deletes that.
    assert await store.get(ref_in(store, contents[0])) == contents[0]
    for content in contents[1:]:
        assert await kit.held(ref_in(store, content)) is None


async def test_who_is_killed_while_it_puts_leaves_whole_values_or_none(kit: Kit) -> None:
    store = await kit.node()
    async with OtherNode(kit, "put") as other:
        await other.kill()
    for number in range(3):
        content = value(number)
        ref = ref_in(store, content)
        assert await kit.held(ref) in (content, None)
        await store.put(ref, content)
        assert await store.get(ref) == content
