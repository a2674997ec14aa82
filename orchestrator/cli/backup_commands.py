"""`orchestrator cluster backup`: a running cluster's state into a file, and what a file holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import google_crc32c
import grpc.aio
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from orchestrator.cli import exits
from orchestrator.cli.cluster_calls import refused, service_at
from orchestrator.cli.cluster_commands import best_status, silent
from orchestrator.cli.output import Output, facts, stacked
from orchestrator.cli.session import Session, common_options, current_session
from orchestrator.storage.backup_file import BackupHeader, BackupReader, BackupWriter
from orchestrator.storage.backups import extract
from orchestrator.storage.errors import BackupUnfit, SchemaVersionUnsupported
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import OrchestratorError

_STATUS_TIMEOUT_S = 2.0


class _SaveByDefault(click.Group):
    """`backup FILE` is `backup save FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["save", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_SaveByDefault, subcommand_metavar="FILE | save FILE | verify FILE")
def backup() -> None:
    """Back up the cluster to FILE, or verify such a file."""


@backup.command("save")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--node", default="", help="Who makes it.  [default: the follower that lags least, else the leader]")
@click.option("--bytes-per-second", type=click.IntRange(min=0), default=0, metavar="NUMBER",
              help="Not faster than this.  [default: as fast as it goes]")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
@common_options
def save_backup(file: Path, node: str, bytes_per_second: int, overwrite: bool) -> None:
    """Back up the running cluster to FILE: its state at one log index, with everything acknowledged before.

    FILE is there when it is whole and synced, and not before; what was interrupted leaves nothing.
    """
    session = current_session()
    if file.exists() and not overwrite:
        raise exits.Failure(f"{file} is there already (--overwrite replaces it)", exits.USAGE)
    if not file.parent.is_dir():
        raise exits.Failure(f"there is no directory {file.parent}", exits.USAGE)
    try:
        header, size_bytes = asyncio.run(_save(session, file, node, bytes_per_second))
    except OrchestratorError as error:
        raise exits.of(error) from error
    except BackupUnfit as error:
        raise exits.Failure(str(error), exits.UNAVAILABLE) from error
    except OSError as error:
        raise exits.Failure(f"{file}: {error.strerror}", exits.FAILED) from error
    session.output.show(header_values(header) | {"file": str(file), "file_bytes": size_bytes},
                        stacked(f"backed up to {file} ({size_bytes >> 10} KiB)", describe(header)))


@backup.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for scripts.")
def verify_backup(file: Path, as_json: bool) -> None:
    """Read all of FILE, without a cluster: every checksum, every row of its database; and say what it holds."""
    output = Output(as_json=as_json or current_session().as_json)
    with backup_errors(file), tempfile.TemporaryDirectory(prefix="orchestrator-verify-") as scratch:
        with BackupReader(file) as reader:
            total = reader.header.size_bytes
        with progress_of("verifying", total) as progress:
            header = extract(file, Path(scratch) / "state.db", progress)
    output.show(header_values(header) | {"file": str(file)}, stacked(f"{file} is whole", describe(header)))


@contextmanager
def backup_errors(file: Path) -> Iterator[None]:
    """What is wrong with a file, as one line and an exit code."""
    try:
        yield
    except (BackupUnfit, SchemaVersionUnsupported) as error:
        raise exits.Failure(str(error), exits.FAILED) from error
    except OSError as error:
        raise exits.Failure(f"{error.filename or file}: {error.strerror}", exits.FAILED) from error


@contextmanager
def progress_of(what: str, total_bytes: int) -> Iterator[Any]:
    """A function that is told of more bytes; they are shown on a terminal only, and not where results go."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
               TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total_bytes)
        yield lambda more_bytes: shown.update(task, advance=more_bytes)


async def _save(session: Session, file: Path, node: str, bytes_per_second: int) -> tuple[BackupHeader, int]:
    address, index_min = await _chosen(session, node)
    request = cluster_pb2.BackupRequest(index_min=index_min, bytes_per_second_max=bytes_per_second)
    async with service_at(address, session.tls) as service:
        stream = service.Backup(request)
        try:
            return await _received(aiter(stream), file)
        except grpc.aio.AioRpcError as error:
            raise refused(address, error) from error


async def _chosen(session: Session, wanted: str) -> tuple[str, int]:
    """Who is asked, and up to where it must have applied the log."""
    found = await best_status(session.addresses, min(session.timeout_s, _STATUS_TIMEOUT_S), session.tls)
    if found is None:
        raise await silent(session)
    nodes = {node.name: node for node in found.nodes if node.grpc_address}
    # Without a leader nobody can say what was acknowledged: then it is what the node has.
    leader = nodes.get(found.leader)
    index_min = leader.commit_index if leader is not None else 0
    if wanted:
        if wanted not in nodes:
            raise exits.Failure(f"{wanted} is no node of the cluster that can be reached", exits.NOT_FOUND)
        return nodes[wanted].grpc_address, index_min
    followers = [node for node in nodes.values() if node.role == cluster_pb2.NODE_ROLE_FOLLOWER]
    best = min(followers, key=lambda node: (node.lag_entries, node.name), default=leader or nodes.get(found.node))
    if best is None:
        raise exits.Failure("no node that can be reached has anything to back up", exits.UNAVAILABLE)
    return best.grpc_address, index_min


async def _received(parts: Any, file: Path) -> tuple[BackupHeader, int]:
    """Writes what comes. Raises BackupUnfit if it is not what was sent, OSError, AioRpcError."""
    header = _header(await anext(parts, cluster_pb2.BackupResponse()))
    what = f"backup of {header.cluster_id[:8]} from {header.node}"
    with progress_of(what, header.size_bytes) as progress, BackupWriter(file, header) as writer:
        offset = 0
        async for part in parts:
            if part.WhichOneof("part") == "trailer":
                return header, await asyncio.to_thread(writer.finish, part.trailer.sha256)
            data = part.chunk.data
            if part.chunk.offset != offset or google_crc32c.value(data) != part.chunk.crc32c:
                raise BackupUnfit(f"what came of the backup at byte {offset} is not what was sent")
            # In a thread, while the next piece is under way.
            await asyncio.to_thread(writer.write, data)
            offset += len(data)
            progress(len(data))
    raise BackupUnfit("the backup ended before its end")


def _header(first: cluster_pb2.BackupResponse) -> BackupHeader:
    sent = first.header
    if first.WhichOneof("part") != "header" or len(sent.content_hash) != 16:
        raise BackupUnfit("the backup does not begin with what it is")
    values = {field.name: getattr(sent, field.name) for field in sent.DESCRIPTOR.fields}
    return BackupHeader(**values | {"content_hash": sent.content_hash.hex()})


def header_values(header: BackupHeader) -> dict[str, Any]:
    return msgspec.structs.asdict(header)


def describe(header: BackupHeader) -> Any:
    """What a backup holds, for people."""
    at = datetime.fromtimestamp(header.log_time_ms / 1000, UTC)
    return facts((
        ("cluster", f"{header.cluster_id}, recovery epoch {header.recovery_epoch}"),
        ("made by", f"node {header.node}, version {header.version}, behaviour level {header.behaviour_level}"),
        ("stands at", f"index {header.index} of term {header.term}, {at:%Y-%m-%d %H:%M:%S} UTC"),
        ("executions", f"{header.executions}, of which {header.live_executions} have not ended"),
        ("definitions", f"{header.workflow_definitions} of workflows, {header.task_definitions} of tasks"),
        ("schedules", header.schedules),
        ("database", f"{header.size_bytes >> 10} KiB, content {header.content_hash}"),
    ))
