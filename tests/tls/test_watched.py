"""Files that change: what is usable is taken, what is not is said once, and the old stays."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
from pathlib import Path

import pytest

from orchestrator.tls import files as reading
from orchestrator.tls.files import TlsFiles, TlsUnusable
from orchestrator.tls.watched import Watched, accepting, dialling
from tests.tls import making


class Looks(list[bool | None]):
    """What was told of each look."""

    def __call__(self, taken: bool | None) -> None:
        self.append(taken)


def serial(watched: Watched) -> int:
    return watched.current.certificates["peer_tls_certificate"][0].serial_number


async def test_what_is_renewed_is_taken_once(tmp_path: Path) -> None:
    authority, looks = making.authority(tmp_path), Looks()
    watched = Watched(making.files(authority, making.node(authority, "a")), looks)
    first = serial(watched)
    await watched.look()
    assert serial(watched) == first
    renewed = authority.renew("a", making.now(), 60)
    await watched.look()
    await watched.look()
    assert serial(watched) == renewed.certificate.serial_number != first
    assert looks == [None, True, None]


async def test_half_of_a_pair_is_not_taken_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, looks = making.authority(tmp_path), Looks()
    made = making.node(authority, "a")
    watched = Watched(making.files(authority, made), looks)
    first, old_key = serial(watched), made.key_file.read_bytes()
    renewed = authority.renew("a", making.now(), 60)
    new_key = made.key_file.read_bytes()
    made.key_file.write_bytes(old_key)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await watched.look()
    assert serial(watched) == first and looks == [False, None, None]
    [said] = caplog.records
    assert "peer_tls_certificate and peer_tls_key" in said.getMessage()
    made.key_file.write_bytes(new_key)
    await watched.look()
    assert serial(watched) == renewed.certificate.serial_number and looks[-1] is True


@pytest.mark.parametrize("what", ["gone", "empty", "no PEM", "another authority's", "expired", "another host's"])
async def test_what_is_unusable_is_not_taken(tmp_path: Path, what: str) -> None:
    authority, looks = making.authority(tmp_path), Looks()
    made = making.node(authority, "a")
    watched = Watched(making.files(authority, made, host=making.HOST), looks)
    first = serial(watched)
    if what == "gone":
        made.certificate_file.unlink()
    elif what in ("empty", "no PEM"):
        made.certificate_file.write_text("" if what == "empty" else "-----BEGIN CERTIFICATE-----\nAAAA")
    else:
        other = making.authority(tmp_path, "other")
        another = {
            "another authority's": lambda: making.node(other, "a"),
            "expired": lambda: making.expired(authority, "b"),
            "another host's": lambda: making.node(authority, "b", "b.example"),
        }[what]()
        shutil.copy(another.certificate_file, made.certificate_file)
        shutil.copy(another.key_file, made.key_file)
    await watched.look()
    assert serial(watched) == first and looks == [False]


async def test_a_kubernetes_secret_that_is_swapped_is_taken(tmp_path: Path) -> None:
    """The files are links through `..data`, which is swapped; the links themselves never change."""
    authority = making.authority(tmp_path)
    mount = tmp_path / "secret"
    mount.mkdir()

    def version(name: str) -> int:
        folder = mount / f"..{name}"
        folder.mkdir()
        made = making.node(authority, name, making.HOST)
        for source, target in ((made.certificate_file, "tls.crt"), (made.key_file, "tls.key"),
                               (authority.file, "ca.crt")):
            shutil.copy(source, folder / target)
        (mount / "..data_tmp").symlink_to(folder.name)
        (mount / "..data_tmp").replace(mount / "..data")
        return made.certificate.serial_number

    first = version("first")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (mount / name).symlink_to(Path("..data") / name)
    links = [os.lstat(mount / name).st_mtime_ns for name in ("tls.crt", "tls.key", "ca.crt")]
    watched = Watched(TlsFiles("peer_tls", mount / "tls.crt", mount / "tls.key", mount / "ca.crt", mount / "ca.crt",
                               ssl.TLSVersion.TLSv1_3))
    assert serial(watched) == first
    second = version("second")
    assert [os.lstat(mount / name).st_mtime_ns for name in ("tls.crt", "tls.key", "ca.crt")] == links
    await watched.look()
    assert serial(watched) == second


def test_files_that_are_swapped_while_they_are_read_are_read_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = making.authority(tmp_path)
    made = making.node(authority, "a")
    wanted, swapped = making.files(authority, made), []
    contexts = reading._context

    def swap_in_between(*arguments: object) -> ssl.SSLContext:
        if not swapped:
            swapped.append(authority.renew("a", making.now(), 60))
        return contexts(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(reading, "_context", swap_in_between)
    found = reading.read(wanted)
    assert found.certificate == made.certificate_file.read_bytes() and found.key == made.key_file.read_bytes()


@pytest.mark.parametrize(("change", "words"), [
    ("host", ["peer_tls_certificate", "is for a, 127.0.0.1", "b.example", "peer_advertise"]),
    ("expired", ["peer_tls_certificate", "ends", "expired", "peer_tls_authority"]),
    ("foreign", ["peer_tls_certificate", "refused", "peer_tls_authority", "issuer"]),
    ("client", ["peer_tls_certificate", "purpose"]),
    ("password", ["peer_tls_key", "without a password"]),
])
def test_what_cannot_work_is_refused_with_its_reason(tmp_path: Path, change: str, words: list[str]) -> None:
    authority = making.authority(tmp_path)
    made = making.expired(authority, "a") if change == "expired" else making.node(authority, "a")
    host = "b.example" if change == "host" else making.HOST
    if change == "client":
        made, host = making.client(authority, "ops"), "ops"
    if change == "password":
        from cryptography.hazmat.primitives import serialization as pem

        key = pem.load_pem_private_key(made.key_file.read_bytes(), None)
        made.key_file.write_bytes(key.private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret")))
    signer = making.authority(tmp_path, "foreign") if change == "foreign" else authority
    with pytest.raises(TlsUnusable) as refused:
        reading.read(making.files(signer, made, host=host))
    assert all(word in str(refused.value) for word in words), refused.value


async def test_new_connections_are_made_with_what_was_read_last(tmp_path: Path) -> None:
    """Of both sides; the connection that is up goes on with what it was made with."""
    authority = making.authority(tmp_path)
    ours, theirs = making.node(authority, "a"), making.node(authority, "b")
    server_side, client_side = Watched(making.files(authority, ours)), Watched(making.files(authority, theirs))
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(_serial_of(writer))
        writer.write(await reader.readexactly(1))

    server = await asyncio.start_server(accept, making.HOST, 0, ssl=accepting(server_side))
    port = server.sockets[0].getsockname()[1]
    dial_with = dialling(client_side)

    async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(making.HOST, port, ssl=dial_with)

    reader, writer = await dial()
    assert (_serial_of(writer), await seen.get()) == (ours.certificate.serial_number, theirs.certificate.serial_number)
    new = [authority.renew(name, making.now(), 60).certificate.serial_number for name in ("a", "b")]
    await server_side.look()
    await client_side.look()
    _, other = await dial()
    assert [_serial_of(other), await seen.get()] == new
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    for each in (writer, other):
        each.close()
    server.close()


def _serial_of(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)
