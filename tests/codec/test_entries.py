"""Log entries: pieces joined are the entry, order is kept, and a newer version is refused with the way out."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from orchestrator.codec import entries
from orchestrator.codec.entries import EntryHeader, decode_entry, encode_command, encode_entry, join_entry
from orchestrator.codec.errors import EntryCorrupt, EntryVersionUnsupported
from orchestrator.engine import behaviour, choices, commands
from orchestrator.engine.blob_commands import HeldBlob
from orchestrator.engine.command import Command
from orchestrator.engine.commands import CompleteTask, FireTimers, PauseWorkflow, RequestIdentity
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.stream_commands import StreamEntry

HEADER = EntryHeader(behaviour_level=1, partition=0, time_ms=1_700_000_000_000, proposer="n1")
COMPLETE = CompleteTask("default", "w1", "t1", 5, TaskStatus.COMPLETED, b'{"a": 1}', "", "")
COMMANDS: list[tuple[RequestIdentity | None, Command]] = [
    (None, FireTimers()),
    (RequestIdentity(request_id="r"), PauseWorkflow("default", "w1")),
    (RequestIdentity(session_id="s", sequence=4, lowest_unacknowledged=2), COMPLETE),
]


def test_what_was_encoded_is_decoded_in_order() -> None:
    entry = decode_entry(encode_entry(HEADER, COMMANDS))
    assert entry.commands == COMMANDS
    assert (entry.behaviour_level, entry.partition, entry.time_ms, entry.proposer) == (1, 0, 1_700_000_000_000, "n1")


def test_an_entry_is_its_pieces_joined() -> None:
    pieces = [encode_command(identity, command) for identity, command in COMMANDS]
    assert join_entry(HEADER, pieces) == encode_entry(HEADER, COMMANDS)
    assert decode_entry(join_entry(HEADER, [])).commands == []
    many = decode_entry(join_entry(HEADER, pieces[:1] * 70_000))
    assert len(many.commands) == 70_000


@pytest.mark.parametrize("kind", Command.__subclasses__())
def test_every_command_can_be_in_an_entry(kind: type[Command]) -> None:
    sample = {"str": "x", "int": 1, "bool": True, "bytes": b"x"}
    values = [
        sample.get(getattr(field.type, "__name__", ""), ("x",)) if field.required else field.default
        for field in msgspec.structs.fields(kind)
    ]
    for place, field in enumerate(msgspec.structs.fields(kind)):
        if isinstance(field.type, type) and issubclass(field.type, int) and field.type not in (int, bool):
            values[place] = next(iter(field.type))  # type: ignore[call-overload]  # the rest of the integers are enums
        elif field.required and field.name == "documents":
            values[place] = (b"x",)
        elif field.required and field.name == "blobs":
            values[place] = (HeldBlob("s", "0" * 64, 5),)
        elif field.required and field.name == "numbers":
            values[place] = (1, 2)
        elif field.required and field.name == "entries":
            values[place] = (StreamEntry("1-0", "e", b"{}", invalid="why"),)
        elif field.name == "lines":
            values[place] = ((1, "x"),)
        elif field.name == "items":
            values[place] = (commands.PurgeItem("x", "w", 1, choices.PurgeRule.AGE),)
        elif field.required and field.name == "times":
            values[place] = ((1, 0),)
    command = kind(*values)
    assert decode_entry(encode_entry(HEADER, [(None, command)])).commands == [(None, command)]


def test_a_newer_format_is_refused_with_the_way_out() -> None:
    data = encode_entry(HEADER, COMMANDS)
    with pytest.raises(EntryVersionUnsupported, match=r"format 2.*upgrade this node"):
        decode_entry(b"\x02" + data[1:])


def test_an_unknown_command_is_refused_with_the_way_out() -> None:
    class Sing(msgspec.Struct, frozen=True, array_like=True, tag=250):
        song: str

    sung = cast(Command, Sing("la"))
    with pytest.raises(EntryVersionUnsupported, match=r"n1.*upgrade this node"):
        decode_entry(encode_entry(HEADER, [*COMMANDS, (None, sung)]))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\xc0", encode_entry(HEADER, COMMANDS)[:-1]])
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(EntryCorrupt):
        decode_entry(data)


def test_the_bytes_of_an_entry_are_pinned() -> None:
    """They are in journals and in chain hashes: a change here is a new format."""
    data = encode_entry(EntryHeader(1, 0, 5, "n"), [(None, commands.PauseWorkflow("d", "w"))])
    assert data.hex() == "0192940100" + "05a16e" + "dd00000001" + "92c0930ca164a177"


def test_the_bytes_of_a_start_are_pinned() -> None:
    start = commands.StartWorkflow("d", "o", 0, "w", choices.IfExists.FAIL, b"{}", trace="t")
    data = encode_entry(EntryHeader(1, 0, 5, "n"), [(None, start)])
    assert data.hex() == (
        "0192940100" + "05a16e" + "dd00000001"
        "92c0dc00110aa164a16f00a17701c4027b7da000a090c400a001c400a0a174"
    )


class OldNote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9_001):
    text: str


class NewNote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9_001):
    """As a later release has it. Neither is a subclass of Command, for a test walks those."""

    text: str
    colour: str = ""


def test_a_command_without_its_new_field_is_that_of_the_release_before(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_command: Any = entries.encode_command
    monkeypatch.setitem(behaviour.FIELDS_SINCE, cast(Any, NewNote), {"colour": 2})
    assert encode_command(None, NewNote("x")) == encode_command(None, OldNote("x"))
    old = msgspec.msgpack.Decoder(tuple[RequestIdentity | None, OldNote])
    assert old.decode(encode_command(None, NewNote("x"))) == (None, OldNote("x"))
    with pytest.raises(msgspec.ValidationError):
        old.decode(encode_command(None, NewNote("x", "red")))


def test_a_field_of_a_newer_version_is_refused_and_not_passed_over() -> None:
    command = msgspec.msgpack.encode((None, [commands.FireTimers.__struct_config__.tag, "more"]))
    with pytest.raises(EntryVersionUnsupported, match=r"behaviour level 1, proposed by n1.*upgrade this node"):
        decode_entry(join_entry(HEADER, [command]))
    identity = msgspec.msgpack.encode((["r", "", 0, 0, 1], FireTimers()))
    with pytest.raises(EntryVersionUnsupported):
        decode_entry(join_entry(HEADER, [identity]))
