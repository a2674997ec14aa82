"""Values that are taken out of payloads and put back: what is a marker, what never becomes one, and what is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.blobs import (
    TAKEN_MAX,
    WORTH_BYTES,
    BlobRef,
    ContentNotGiven,
    NothingToTakeOut,
    externalise,
    has_reserved_key,
    internalise,
    internalised_bytes,
    is_store_id,
    marked,
    marker_of,
    ref_to,
    references_in,
)
from orchestrator.engine.expressions import check_json, compact, fields_of, is_json_object, merge_objects

REF = ref_to("redis-1", b'"content"')
MARKER = marker_of(REF)
# Every way to write the key: JSON has no other escapes for these characters.
SPELLINGS = [
    b'"$blob"', b'"\\u0024blob"', b'"$\\u0062lob"', b'"$b\\u006cob"', b'"$b\\u006Cob"', b'"$bl\\u006fb"',
    b'"$bl\\u006Fb"', b'"$blo\\u0062"', b'"\\u0024\\u0062\\u006c\\u006f\\u0062"',
]
ALIKE = [
    b'{"a":"$blob"}', b'{"a":"\\"$blob\\":1"}', b'{"x\\"$blob":1}', b'{"$blob\\"":1}', b'{"\\\\$blob":1}',
    b'{"$Blob":1}',
    b'{"$blobs":1}', b'{" $blob":1}', b'["$blob",":"]', b'{"a":["$blob"],"b":1}', b'{"\\\\u0024blob":1}',
    b'{"a":"{\\"$blob\\":{}}"}', '{"＄blob":1}'.encode(), b'{"$\\u0042lob":1}', b'{"$blob\\u0000":1}',
]


def large(size: int = 4096, letter: str = "x") -> str:
    return letter * size


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def taken(payload: Any, inline_max: int = 2048) -> tuple[Any, list[Any]]:
    """What is left, with "OUT" where something was taken, and what was taken."""
    rest, contents = externalise(dump(payload), "s", inline_max)
    assert len(rest) <= inline_max
    assert references_in(rest) == tuple(sorted(contents))
    assert json.loads(internalise(rest, contents)) == payload
    left = internalise(rest, dict.fromkeys(contents, b'"OUT"'))
    return json.loads(left), [json.loads(content) for content in contents.values()]


@pytest.mark.parametrize("key", SPELLINGS)
@pytest.mark.parametrize(
    "around",
    ["{%s:1}", "{%s \n: 1}", '{"a":[{"b":2,%s:{}}]}', '{"a":"\\\\",%s:1}', '{%s:1,"$blo":2}', '{"a":{%s:1},"a":2}'],
)
def test_the_key_is_reserved_however_it_is_spelled(key: bytes, around: str) -> None:
    payload = around.encode().replace(b"%s", key)
    check_json(payload)
    assert has_reserved_key(payload)


@pytest.mark.parametrize("payload", ALIKE)
def test_what_only_looks_like_the_key_is_not_reserved(payload: bytes) -> None:
    check_json(payload)
    assert not has_reserved_key(payload)
    assert references_in(payload) == ()


KEYS = st.sampled_from(["$blob", "a", "$", "blob", '"$blob"', "\\", '\\"$blob', '"', "$blob\\", "é", '{"$blob":'])
VALUES = st.recursive(
    st.none() | st.integers() | KEYS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_the_reserved_key_is_what_a_parser_finds(value: Any, ascii_only: bool, indent: int | None) -> None:
    payload = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    found = "$blob" in keys_of(value)
    assert has_reserved_key(payload) is found
    escaped = payload.replace(b"$", b"\\u0024").replace(b"o", b"\\u006F")
    assert has_reserved_key(escaped) is found
    assert references_in(payload) == references_in(escaped) == ()


def test_a_marker_is_one_wherever_it_stands() -> None:
    other = ref_to("a", b"2")
    payload = b'{"a":%b,"b":[%b,{"c":%b}]}' % (MARKER, marker_of(other), MARKER)
    assert references_in(payload) == (other, REF)
    assert marked(MARKER) == REF
    assert marked(payload) is None
    assert references_in(merge_objects(compact(payload), b'{"d":1}')) == (other, REF)
    assert internalise(payload, {REF: b'"content"', other: b"2"}) == b'{"a":"content","b":[2,{"c":"content"}]}'


@pytest.mark.parametrize(
    "payload",
    [
        MARKER.replace(b":", b": "), MARKER.replace(b"$", b"\\u0024"), MARKER.replace(b"}}", b',"x":1}}'),
        MARKER.replace(b"}}", b'},"x":1}'), MARKER.replace(b'"$blob"', b'"x":1,"$blob"'),
        MARKER.replace(b'"redis-1"', b'""'), MARKER.replace(b'"redis-1"', b'"a b"'), MARKER.replace(b'"redis-1"', b"1"),
        MARKER.replace(REF.sha256.encode(), REF.sha256.upper().encode()), MARKER.replace(b'"size":9', b'"size":09'),
        MARKER.replace(b'"size":9', b'"size":-1'), MARKER.replace(b'"size":9', b'"size":9.0'),
        MARKER.replace(REF.sha256.encode(), REF.sha256[1:].encode()), b'{"$blob":{}}', b'{"$blob":null}',
        MARKER.replace(b"store", b"stor\\u0065"),
    ],
)
def test_what_is_not_written_as_a_marker_is_none(payload: bytes) -> None:
    """And it does not come in: its key is reserved."""
    for text in (payload, b'{"a":%b}' % payload):
        assert has_reserved_key(text)
        assert references_in(text) == ()
        assert internalise(text, {}) == text
        assert marked(text) is None


def test_a_marker_in_a_string_is_text() -> None:
    payload = dump({"a": MARKER.decode(), "b": '"' + MARKER.decode(), "c\\": "\\" + MARKER.decode()})
    assert references_in(payload) == ()
    assert not has_reserved_key(payload)
    assert internalise(payload, {}) == payload


def test_values_are_put_back_with_their_own_text() -> None:
    text = b' {"n" : 1.50, "big":123456789012345678901234567890,\n"e":"\\u00e9\xc3\xa9"}'.strip()
    pad = b'"%b"' % (b"x" * 5000)
    payload = b'{"before": 1.0 ,"value":[%b,%b],"after":1E2}' % (text, pad)
    rest, contents = externalise(payload, "s", 1000)
    assert rest == b'{"before":1.0,"value":%b,"after":1E2}' % marker_of(references_in(rest)[0])
    assert internalise(rest, contents) == payload.replace(b": 1.0 ,", b":1.0,")


def test_what_fits_stays_as_it_is() -> None:
    payload = b'{ "a" : "%b" }' % (b"x" * 2000)
    assert externalise(payload, "s", len(payload)) == (payload, {})
    assert externalise(payload, "s", len(payload) - 1) == (payload.replace(b" ", b""), {})


def test_the_largest_go_first_and_only_as_many_as_needed() -> None:
    left, out = taken({"a": large(1500), "b": large(9000), "c": large(1501), "d": large(8000)}, 4000)
    assert (left, out) == ({"a": large(1500), "b": "OUT", "c": large(1501), "d": "OUT"}, [large(9000), large(8000)])


def test_of_two_alike_the_first_goes_first() -> None:
    left, _ = taken({"a": large(4000, "a"), "b": large(4000, "b")}, 5000)
    assert left == {"a": "OUT", "b": large(4000, "b")}


def test_a_record_keeps_what_is_small_in_it() -> None:
    answer = {"response": {"statusCode": 200, "headers": {"a": "b"}, "body": {"items": [large()], "next": None}}}
    left, out = taken(answer)
    assert left == {"response": {"statusCode": 200, "headers": {"a": "b"}, "body": {"items": "OUT", "next": None}}}
    assert out == [[large()]]


def test_an_object_of_many_values_goes_as_a_whole() -> None:
    table = {f"k{number}": large(300) for number in range(10_000)}
    assert taken({"table": table, "id": 7}) == ({"table": "OUT", "id": 7}, [table])


def test_an_array_goes_as_a_whole() -> None:
    assert taken({"list": [large(), 1]}) == ({"list": "OUT"}, [[large(), 1]])


def test_whole_values_go_where_parts_are_not_enough() -> None:
    """Half of the object is one of its values, but the other half is too much in small ones."""
    record = {"document": large(40_000)} | {f"k{number}": large(200) for number in range(150)}
    assert taken({"record": record, "id": 7}) == ({"record": "OUT", "id": 7}, [record])


def test_what_is_deep_goes_with_what_it_is_in() -> None:
    deep: Any = {"text": large()}
    for _ in range(60):
        deep = {"in": deep}
    left, out = taken(deep)
    assert left == {"in": {"in": {"in": {"in": "OUT"}}}}
    assert len(out) == 1


def test_the_same_content_twice_is_one_reference() -> None:
    payload = dump({"a": large(), "b": large(), "c": [1, large(7000, "z")]})
    rest, contents = externalise(payload, "s", 1200)
    assert len(contents) == len(references_in(rest)) == 2
    assert json.loads(internalise(rest, contents)) == json.loads(payload)
    assert internalised_bytes(rest) == len(internalise(rest, contents))


def test_many_small_values_cannot_be_taken_out() -> None:
    payload = dump({f"k{number}": large(WORTH_BYTES - 3) for number in range(100)})
    with pytest.raises(NothingToTakeOut, match=r"2048 .* put many small values into one field"):
        externalise(payload, "s", 2048)


def test_no_more_values_are_taken_out_than_a_payload_may_have() -> None:
    payload = dump({f"k{number}": f"{number}-{large(2000)}" for number in range(2 * TAKEN_MAX)})
    half = len(payload) // 2 + TAKEN_MAX * 200
    rest, contents = externalise(payload, "s", half)
    assert TAKEN_MAX // 2 < len(contents) == len(references_in(rest)) <= TAKEN_MAX
    with pytest.raises(NothingToTakeOut):
        externalise(payload, "s", half // 2)


def test_a_value_with_a_marker_in_it_stays() -> None:
    inner = b'{"kept":"%b","other":%b}' % (b"x" * 3000, MARKER)
    payload = b'{"list":[%b],"more":"%b"}' % (inner, b"y" * 3500)
    rest, contents = externalise(payload, "s", 4000)
    assert list(contents.values()) == [b'"%b"' % (b"y" * 3500)]
    assert references_in(rest) == tuple(sorted([REF, *contents]))
    with pytest.raises(NothingToTakeOut):
        externalise(payload, "s", 1000)


def test_a_value_with_the_mere_word_in_it_goes() -> None:
    assert taken({"list": ["$blob", large()]}) == ({"list": "OUT"}, [["$blob", large()]])


def test_what_is_put_back_is_not_searched() -> None:
    assert internalise(b'{"a":%b}' % MARKER, {REF: MARKER}) == b'{"a":%b}' % MARKER


def test_a_content_that_is_not_given_is_named() -> None:
    with pytest.raises(ContentNotGiven, match=f"{REF.sha256} in the store 'redis-1'") as raised:
        internalise(b'{"a":%b}' % MARKER, {ref_to("other", b'"content"'): b'"content"'})
    assert raised.value.ref == REF
    assert isinstance(raised.value, KeyError)


@pytest.mark.parametrize("name", ["", "a b", 'a"', "é", "a/b", "x" * 65, "a\n"])
def test_a_store_has_a_name_that_needs_no_escapes(name: str) -> None:
    assert not is_store_id(name)
    with pytest.raises(ValueError, match="no name of a store"):
        externalise(b"{}", name, 10)


LARGE_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    | st.builds(lambda letter, size: letter * size, st.sampled_from(["x", "é", '"', "\\", "$", "\U0001f600"]),
                st.integers(0, 3000)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "$blob"), LARGE_VALUES, max_size=6),
       st.booleans(), st.integers(600, 6000))
def test_put_back_it_is_what_it_was(value: dict[str, Any], ascii_only: bool, inline_max: int) -> None:
    payload = json.dumps(value, ensure_ascii=ascii_only).encode()
    try:
        rest, contents = externalise(payload, "s", inline_max)
    except NothingToTakeOut:
        assert len(payload) > inline_max
        return
    assert len(rest) <= inline_max
    assert is_json_object(rest)
    assert list(fields_of(rest)) == list(value)
    assert references_in(rest) == tuple(sorted(contents))
    assert all(ref == ref_to("s", content) and len(content) >= WORTH_BYTES for ref, content in contents.items())
    restored = internalise(rest, contents)
    assert json.loads(restored) == value
    assert internalised_bytes(rest) == len(restored)


def test_references_are_in_one_order() -> None:
    refs = [BlobRef("b", "0" * 64, 1), BlobRef("a", "f" * 64, 1), BlobRef("a", "0" * 64, 2), BlobRef("a", "0" * 64, 1)]
    payload = b"[" + b",".join(marker_of(ref) for ref in refs) + b"]"
    assert references_in(payload) == tuple(sorted(refs))
