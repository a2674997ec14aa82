"""Nodes that go wrong, from outside: damaged files, disks that are full, read-only or broken; and what must follow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.replication.segment import RECORD_MAGIC
from orchestrator.storage.schema import PAGE_BYTES
from orchestrator_client import Client
from orchestrator_client.status import Failure
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import pinned, role_of
from tests.cluster.test_replaced_node import orchestrator, votes
from tests.cluster.workload import Load, arithmetic, eventually, working

REFUSED = 3
STOPPED_ITSELF = 4
# Enough to see what is lost; the machine is for the nodes.
LANES = 3
WORK_S = 0.03
# While a file of this name, beside a node's data, names one of its files, syncs of that file fail.
FAILS_SYNCS = "fails-syncs"
_DISK_HOLDER = "mount -t tmpfs -o size={size} tmpfs {path} && echo ready && exec sleep infinity"
# One that the kernel itself makes read-only once it has found an error: others can't, while a file is open for writing.
EXT4 = "ext4"
_EXT4_BYTES = 48 << 20
_EXT4_MOUNT = "mount -o loop,errors=remount-ro {image} {path}"
_EXT4_HOLDER = f"mkfs.ext4 -q {{image}} && {_EXT4_MOUNT} && echo ready && exec sleep infinity"


class WrongCluster(LocalCluster):
    """Nodes whose disks can be made to fail.

    With `disk_size` each has one of its own: in memory and of that size, or EXT4, which `turn_read_only` is for.
    """

    def __init__(self, directory: Path, *, disk_size: str = "", node_settings: dict[str, int | str] | None = None,
                 failing_syncs: bool = False) -> None:
        super().__init__(directory, node_settings=node_settings)
        self._disk_size = disk_size
        self._failing_syncs = failing_syncs
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        super().prepare()
        for node in self.nodes.values():
            if self._disk_size and node.name not in self._holders:
                self._make_disk(node)

    def files(self, name: str) -> Path:
        """The node's data directory, as it sees it."""
        directory = self.nodes[name].data_dir
        holder = self._holders.get(name)
        return directory if holder is None else Path(f"/proc/{holder.pid}/root{directory}")

    def turn_read_only(self, name: str) -> None:
        """Whatever is open: the kernel is told of an error on this file system."""
        device = self._on_disk_of(name, f"findmnt --noheadings --output SOURCE {self.nodes[name].data_dir}").strip()
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("told by a test")

    def repair(self, name: str) -> None:
        """Of a node that has ended: the disk is checked, and can be written to again."""
        path, image = self.nodes[name].data_dir, self._image(name)
        # 1: errors were corrected.
        self._on_disk_of(name, f"umount {path} && {{ e2fsck -p {image} || [ $? = 1 ]; }} && "
                               + _EXT4_MOUNT.format(image=image, path=path))

    def _on_disk_of(self, name: str, script: str) -> str:
        command = ["nsenter", f"--mount=/proc/{self._holders[name].pid}/ns/mnt", "sh", "-c", script]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def _image(self, name: str) -> Path:
        return self.nodes[name].directory / "disk.image"

    def fill_disk(self, name: str, *, leave_bytes: int = 0) -> Path:
        """Writes a file that takes all room but this; when it is removed there is room again."""
        ballast = self.files(name) / "ballast"
        status = os.statvfs(self.files(name))
        with ballast.open("wb", buffering=0) as file:
            left = status.f_bavail * status.f_frsize - leave_bytes
            try:
                while left > 0:
                    left -= file.write(bytes(min(left, 1 << 20)))
            except OSError:
                pass  # it is full
        return ballast

    async def stop(self, timeout_s: float = 10) -> None:
        await super().stop(timeout_s)
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        self._holders.clear()

    def _make_disk(self, node: LocalNode) -> None:
        holds = _EXT4_HOLDER if self._disk_size == EXT4 else _DISK_HOLDER
        image = self._image(node.name)
        if self._disk_size == EXT4:
            with image.open("wb") as file:
                file.truncate(_EXT4_BYTES)
        script = holds.format(size=self._disk_size, path=node.data_dir, image=image)
        command = [sys.executable, "-m", "tests.cluster.wrong", str(os.getpid()), script]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        holder = self._starter.submit(subprocess.Popen, command, stdout=subprocess.PIPE, env=environment).result()
        self._holders[node.name] = holder
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"no disk could be made for node {node.name}")
        shutil.copy(node.data_dir / "node.json", self.files(node.name))

    def _command(self, node: LocalNode) -> list[str]:
        command = super()._command(node)
        if self._failing_syncs:
            command = [sys.executable, "-m", "tests.cluster.failing_node", *command[command.index("--config"):]]
        if node.name in self._holders:
            command = ["nsenter", f"--mount=/proc/{self._holders[node.name].pid}/ns/mnt", *command]
        return command

    def _child_environment(self) -> dict[str, str]:
        return super()._child_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@asynccontextmanager
async def loaded(cluster: LocalCluster, prefix: str = "load") -> AsyncIterator[tuple[Client, Load]]:
    """A checked workload runs meanwhile; at the end everything that was acknowledged has come to its end, once."""
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger, work_s=WORK_S)
    async with Client(cluster.endpoints) as client:
        async with working(client, tasks), Load(client, ledger, workflow, width=LANES, prefix=prefix) as load:
            await load.progress(10)
            yield client, load
        await ledger.check(client)


async def ends(cluster: LocalCluster, name: str, code: int, *said: str) -> None:
    """The node ends by itself with this exit code, and its log says all of this, and what to do, in one line."""
    node = cluster.nodes[name]
    await eventually(lambda: node.exit_code is not None, f"node {name} to end by itself")
    assert node.exit_code == code, node.log_tail()
    text = node.log_tail(2_000)
    lines = [line for line in text.splitlines() if all(part in line for part in said)]
    assert lines, f"no line of its log says {said}:\n{text}"


async def goes_on_without(cluster: LocalCluster, name: str, load: Load) -> str:
    """The others acknowledge, and show that the node is gone; answers who leads."""
    leader = await cluster.wait_leader(other_than=name)
    await load.progress(10)

    async def is_missed() -> bool:
        return await role_of(cluster, name, asked=await cluster.wait_leader()) == "UNREACHABLE"

    await eventually(is_missed, f"the others to miss node {name}")
    return leader


async def serves_nothing(cluster: LocalCluster, name: str, workflow_id: str) -> None:
    """Neither fresh nor stale reads."""
    async with pinned(cluster, name) as node:
        for stale_ok in (False, True):
            answer = await node.get(workflow_id, stale_ok=stale_ok, timeout_s=1)
            assert isinstance(answer, Failure), f"answered by a node that had stopped itself: {answer}"


async def rebuild(cluster: LocalCluster, name: str) -> None:
    """One command, and a start; returns when the node votes again."""
    node = cluster.nodes[name]
    code, said = await orchestrator(cluster, "cluster", "rebuild", "--config", str(node.config_file))
    assert code == 0, said
    old = Path(json.loads(said)["old_data"])
    assert old.parent == node.directory and (old / "raft").is_dir()
    cluster.start_node(name)
    await votes(cluster, name)


# -- damage ------------------------------------------------------------------------------------------------------------


def flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def journal_file(cluster: LocalCluster, name: str) -> Path:
    """The last segment."""
    return max((cluster.nodes[name].data_dir / "raft").glob("*.journal"))


def middle_record(path: Path) -> int:
    """Where the body of a record about the middle of the file begins."""
    data = path.read_bytes()
    return data.index(RECORD_MAGIC, len(data) // 2) + len(RECORD_MAGIC) + 12


@contextmanager
def database(cluster: LocalCluster, name: str) -> Iterator[apsw.Connection]:
    """Of a stopped node."""
    connection = apsw.Connection(str(cluster.nodes[name].data_dir / "state.db"))
    try:
        yield connection
    finally:
        connection.close()


def overwrite_page(path: Path, number: int) -> bytes:
    """Pages count from 1; answers what was there."""
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE_BYTES)
        before = file.read(PAGE_BYTES)
        file.seek((number - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)
    return before


def restore_page(path: Path, number: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE_BYTES)
        file.write(data)


async def run_once(cluster: LocalCluster, name: str, code: int, *said: str) -> None:
    """Starts the node, which ends by itself at once."""
    cluster.start_node(name)
    await ends(cluster, name, code, *said)


def hold_disk(parent: int, script: str) -> None:
    """Keeps a mount namespace with one more file system, until the parent ends in whatever way."""
    from orchestrator.cli.die_with_parent import die_with_parent

    die_with_parent(parent)
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", script])


if __name__ == "__main__":
    hold_disk(int(sys.argv[1]), sys.argv[2])
