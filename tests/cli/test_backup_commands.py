"""A backup that arrives: whole it becomes a file, and anything else leaves nothing; and whom the command asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import backup_commands
from orchestrator.cli.app import cli
from orchestrator.cli.exits import Failure
from orchestrator.cli.session import Session
from orchestrator.storage.backup_file import BackupReader
from orchestrator.storage.errors import BackupUnfit
from orchestrator_api.v1 import cluster_pb2 as pb
from tests.storage.test_backup_file import CONTENT, HEADER, SHA256, written

HALF = len(CONTENT) // 2


def header(**changes: Any) -> pb.BackupResponse:
    values = {name: getattr(HEADER, name) for name in HEADER.__struct_fields__} | changes
    return pb.BackupResponse(header=pb.BackupHeader(**values | {"content_hash": bytes.fromhex(HEADER.content_hash)}))


def chunk(offset: int, data: bytes, **changes: int) -> pb.BackupResponse:
    values = {"offset": offset, "data": data, "crc32c": google_crc32c.value(data)} | changes
    return pb.BackupResponse(chunk=pb.BackupChunk(**values))


TRAILER = pb.BackupResponse(trailer=pb.BackupTrailer(sha256=SHA256))
WHOLE = [header(), chunk(0, CONTENT[:HALF]), chunk(HALF, CONTENT[HALF:]), TRAILER]


async def received(parts: list[Any], file: Path) -> None:
    async def sent() -> AsyncIterator[pb.BackupResponse]:
        for part in parts:
            if isinstance(part, BaseException):
                raise part
            yield part

    await backup_commands._received(sent(), file)


def test_what_arrives_whole_is_a_file(tmp_path: Path) -> None:
    asyncio.run(received(WHOLE, tmp_path / "file"))
    with BackupReader(tmp_path / "file") as reader:
        assert reader.header == HEADER
        assert b"".join(reader.pieces()) == CONTENT


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([], "does not begin"),
        (WHOLE[1:], "does not begin"),
        (WHOLE[:-1], "ended before its end"),
        ([WHOLE[0], *WHOLE[2:]], "is not what was sent"),
        ([*WHOLE[:2], chunk(HALF, CONTENT[HALF:], crc32c=1), TRAILER], "is not what was sent"),
        ([*WHOLE[:2], TRAILER], "or not all of it"),
        ([header(size_bytes=3), *WHOLE[1:]], "or not all of it"),
    ],
    ids=["nothing", "no header", "no end", "a gap", "damaged", "too little", "too much"],
)
def test_what_does_not_leaves_nothing(tmp_path: Path, parts: list[Any], error: str) -> None:
    with pytest.raises(BackupUnfit, match=error):
        asyncio.run(received(parts, tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionError()])
def test_an_interrupted_one_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        asyncio.run(received([*WHOLE[:2], error], tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


# -- whom it asks ----------------------------------------------------------------------------------------------------


def chosen(monkeypatch: pytest.MonkeyPatch, node: str, leader: str = "a", **lags: int) -> tuple[str, int]:
    roles = {name: pb.NODE_ROLE_LEADER if name == leader else pb.NODE_ROLE_FOLLOWER for name in lags}
    nodes = [pb.NodeStatus(name=name, grpc_address=f"{name}:1", role=roles[name], lag_entries=lag, commit_index=70)
             for name, lag in lags.items()]

    async def best_status(addresses: list[str], timeout_s: float, tls: object) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(node=next(iter(lags)), leader=leader, nodes=nodes)

    monkeypatch.setattr(backup_commands, "best_status", best_status)
    return asyncio.run(backup_commands._chosen(Session(), node))


def test_the_follower_that_lags_least_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "", a=0, b=5, c=3) == ("c:1", 70)
    assert chosen(monkeypatch, "b", a=0, b=5, c=3) == ("b:1", 70)
    assert chosen(monkeypatch, "", a=0) == ("a:1", 70)
    # Nobody can say what was acknowledged: it is what the node has.
    assert chosen(monkeypatch, "", leader="", b=5, c=3) == ("c:1", 0)
    with pytest.raises(Failure, match="no node of the cluster"):
        chosen(monkeypatch, "z", a=0)


# -- files -----------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    restore = ("restore", file, "--node", "a", "--data-dir", tmp_path / "d")
    for command in (("cluster", "backup", "verify", file), restore):
        file.unlink(missing_ok=True)
        result = run(*command)
        assert result.exit_code == 1 and "No such file" in result.stderr
        file.write_bytes(b"x" * 1000)
        result = run(*command)
        assert result.exit_code == 1 and "is not a backup" in result.stderr
        # A file of the right shape whose database is none.
        written(file)
        result = run(*command)
        assert result.exit_code == 1 and "damaged" in result.stderr


def test_a_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    result = run("cluster", "backup", tmp_path / "file")
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    result = run("cluster", "backup", tmp_path / "no" / "file")
    assert result.exit_code == 2 and "there is no directory" in result.stderr
    result = run("-e", "127.0.0.1:1", "--json", "cluster", "backup", "--overwrite", tmp_path / "file")
    assert result.exit_code == 5 and "no node answers" in result.stderr
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_what_a_node_was_given_up_for_is_told_before_anything_is_changed(tmp_path: Path) -> None:
    for arguments in (("recover",), ("recover", "--give-up", "b")):
        result = run(*arguments, "--node", "a", "--data-dir", tmp_path)
        assert result.exit_code == 3 and "node.json" in result.stderr
    assert list(tmp_path.iterdir()) == []
