"""A disk in memory that can lose power: only fdatasynced bytes stay, only names in synced directories stay.

`torn` lets a random part of what was not synced survive, in order, perhaps with a damaged end: what a real disk does.
"""

from __future__ import annotations

import random
from pathlib import Path

from orchestrator.replication.files import WriteThenSync


class Inode:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = data


class Directory:
    def __init__(self) -> None:
        self.names: dict[str, Inode | Directory] = {}
        self.durable: dict[str, Inode | Directory] = {}


class NotPowered(OSError):
    """The machine is off."""


class Handle(WriteThenSync):
    def __init__(self, disk: PowerLossFiles, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def write(self, data: bytes) -> None:
        self._disk.check()
        self._inode.data += data

    def fdatasync(self) -> None:
        self._disk.check()
        self._disk.syncs += 1
        if self._disk.fail_syncs:
            raise OSError(5, "Input/output error")
        if not self._disk.lie:
            self._inode.durable = bytes(self._inode.data)

    def truncate(self, size: int) -> None:
        self._disk.check()
        del self._inode.data[size:]

    def size(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        pass


class PowerLossFiles:
    def __init__(self) -> None:
        self._root = Directory()
        self._off = False
        self.syncs = 0
        # fdatasync and sync_directory say that they did it, and did not.
        self.lie = False
        self.fail_syncs = False

    def check(self) -> None:
        if self._off:
            raise NotPowered("no power")

    def power_loss(self, torn: random.Random | None = None) -> PowerLossFiles:
        """Switches this disk off for good; what is left of it is the new one."""
        self._off = True
        left = PowerLossFiles()
        left._root = self._survivors(self._root, torn)
        return left

    def _survivors(self, directory: Directory, torn: random.Random | None) -> Directory:
        left = Directory()
        for name, node in directory.durable.items():
            kept = self._survivors(node, torn) if isinstance(node, Directory) else Inode(self._bytes_left(node, torn))
            left.names[name] = left.durable[name] = kept
        return left

    @staticmethod
    def _bytes_left(inode: Inode, torn: random.Random | None) -> bytes:
        data, durable = bytes(inode.data), inode.durable
        if torn is None or not data.startswith(durable) or len(data) == len(durable):
            return durable
        cut = torn.randint(len(durable), len(data))
        tail = bytearray(data[len(durable) : cut])
        if tail and torn.random() < 0.5:
            tail[torn.randrange(len(tail))] ^= 0xFF
        return durable + bytes(tail)

    # -- the file layer --------------------------------------------------------------------------------------------

    def _directory(self, path: Path) -> Directory:
        node = self._root
        for part in path.parts[1:]:
            child = node.names.get(part)
            if not isinstance(child, Directory):
                raise FileNotFoundError(str(path))
            node = child
        return node

    def _inode(self, path: Path) -> Inode:
        node = self._directory(path.parent).names.get(path.name)
        if not isinstance(node, Inode):
            raise FileNotFoundError(str(path))
        return node

    def open_append(self, path: Path) -> Handle:
        self.check()
        names = self._directory(path.parent).names
        if path.name not in names:
            names[path.name] = Inode()
        return Handle(self, self._inode(path))

    def read(self, path: Path) -> bytes:
        self.check()
        return bytes(self._inode(path).data)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self.check()
        return bytes(self._inode(path).data[offset : offset + size])

    def size(self, path: Path) -> int:
        return len(self._inode(path).data)

    def exists(self, path: Path) -> bool:
        try:
            return path.name in self._directory(path.parent).names
        except FileNotFoundError:
            return False

    def listdir(self, path: Path) -> list[str]:
        return sorted(self._directory(path).names)

    def make_directory(self, path: Path) -> None:
        self.check()
        node = self._root
        for part in path.parts[1:]:
            child = node.names.setdefault(part, Directory())
            assert isinstance(child, Directory)
            node = child

    def make_durable_directory(self, path: Path) -> None:
        """For tests: a directory that was there all along."""
        self.make_directory(path)
        for depth in range(len(path.parts)):
            directory = self._directory(Path(*path.parts[: depth + 1]))
            directory.durable = dict(directory.names)

    def rename(self, source: Path, target: Path) -> None:
        self.check()
        inode = self._inode(source)
        del self._directory(source.parent).names[source.name]
        self._directory(target.parent).names[target.name] = inode

    def remove(self, path: Path) -> None:
        self.check()
        self._inode(path)
        del self._directory(path.parent).names[path.name]

    def sync_directory(self, path: Path) -> None:
        self.check()
        if self.fail_syncs:
            raise OSError(5, "Input/output error")
        if not self.lie:
            directory = self._directory(path)
            directory.durable = dict(directory.names)
