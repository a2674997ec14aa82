"""Every record, and the term and vote, carry a CRC32C: the check value of the polynomial, and every bit is covered."""

from __future__ import annotations

import struct

import google_crc32c

from orchestrator.replication.segment import (
    CHECKED_FROM,
    HEADER,
    RECORD,
    Record,
    decode_record,
    encode_header,
    encode_record,
)
from tests.replication.journals import Disk
from tests.replication.test_hard_state import FILE_NAME, HOME, HardState, powered

CHECK_VALUE = 0xE3069283  # of "123456789", by the definition of CRC-32C (Castagnoli)


def test_the_library_computes_castagnolis_polynomial_and_not_in_python() -> None:
    assert google_crc32c.value(b"123456789") == CHECK_VALUE
    assert google_crc32c.implementation == "c"


def test_a_record_carries_the_crc32c_of_everything_behind_it() -> None:
    data = encode_record(Record(7, 3, 0, b"payload"), 5)
    assert struct.unpack_from("<I", data, 4) == (google_crc32c.value(data[CHECKED_FROM:]),)
    header = encode_header(1, 2, 3, reset=False)
    assert struct.unpack_from("<I", header, 4) == (google_crc32c.value(header[CHECKED_FROM : HEADER.size]),)


def test_no_single_bit_of_a_record_can_change_unnoticed() -> None:
    sound = encode_record(Record(7, 3, 0, b"abc"), 5)
    assert decode_record(sound, 0) is not None
    for bit in range(8 * (RECORD.size + 3)):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << bit % 8
        assert decode_record(bytes(data), 0) is None, f"bit {bit}"


async def test_term_and_vote_carry_it_too() -> None:
    files = powered()
    disk = Disk(files, HOME)
    disk.hard_state.save(HardState(3, "n1"))
    await disk.queue.drain()
    raw = files.read(HOME / FILE_NAME)
    assert int.from_bytes(raw[:4], "big") == google_crc32c.value(raw[4:])
    disk.close()
