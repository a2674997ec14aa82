"""Nodes in network namespaces of their own, so that packets between them can be dropped by rules of the kernel.

The nodes hang on a bridge in the namespace of this process, which must be private (`enter` sees to that). Each has a
face there: an address at which the others reach it, through a relay (see `relay`). All that a node receives from
another comes from that other's face, so a rule in the receiver's namespace cuts one direction of one pair.

Nothing has a name outside: when this process ends, in whatever way, its namespaces, interfaces and rules are gone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from orchestrator.verify.machines import children

BRIDGE = "verify0"
HUB = "10.77.0.1"
PREFIX = 16
ENTERED = "VERIFY_NETWORK_ENTERED"
_HOLDER = [sys.executable, "-m", "orchestrator.verify.machines.holder"]


def obstacle() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "nft") if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    script = f"ip link add {BRIDGE} type bridge && nft list ruleset"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespace can be made: {tried.stderr.strip()}"


def enter(command: list[str]) -> None:
    """Becomes `command` in a fresh network namespace, with a loopback, unless this process is in one already."""
    if os.environ.get(ENTERED) != str(os.getpid()):
        os.environ[ENTERED] = str(os.getpid())
        os.execvp("unshare", ["unshare", "--net", *command])
    _run("ip", "link", "set", "lo", "up")


class Namespaces:
    """One for each node, with its interface, its face, and its rules."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.addresses = {name: f"10.77.0.{11 + number}" for number, name in enumerate(self.names)}
        self.faces = {name: f"10.77.1.{11 + number}" for number, name in enumerate(self.names)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._interfaces: list[str] = []

    def open(self) -> None:
        """Makes them; the process that calls this must outlive them."""
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        self._interfaces.append(BRIDGE)
        for address in (HUB, *self.faces.values()):
            _run("ip", "address", "add", f"{address}/{PREFIX}", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for name in self.names:
            self._make(name)

    def _make(self, name: str) -> None:
        holder = subprocess.Popen([*_HOLDER, str(os.getpid())], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                  env=children.environment())
        self._holders[name] = holder
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the namespace of node {name} was not made")
        _run("ip", "link", "add", f"veth-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        self._interfaces.append(f"veth-{name}")
        _run("ip", "link", "set", f"veth-{name}", "master", BRIDGE, "up")
        for command in (("ip", "link", "set", "lo", "up"),
                        ("ip", "address", "add", f"{self.addresses[name]}/{PREFIX}", "dev", "eth0"),
                        ("ip", "link", "set", "eth0", "up"),
                        ("nft", "add table inet verify"),
                        ("nft", "add chain inet verify input { type filter hook input priority 0; }")):
            _run(*self.prefix(name), *command)

    def prefix(self, name: str) -> list[str]:
        """What a command begins with to run in the node's namespace, as the same process."""
        return ["nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net"]

    def close(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        self._holders.clear()
        # The kernel ends a namespace in its own time; by name, the next one's interfaces need not wait for that.
        while self._interfaces:
            subprocess.run(["ip", "link", "del", self._interfaces.pop()], stderr=subprocess.DEVNULL, check=False)

    # -- rules -----------------------------------------------------------------------------------------------------

    async def cut(self, *directions: tuple[str, str], clients_from: Iterable[str] = ()) -> None:
        """Nothing that the first of each pair sends reaches the second; clients reach none of `clients_from`."""
        for name in self.names:
            sources = [self.faces[source] for source, target in directions if target == name]
            sources += [HUB] if name in set(clients_from) else []
            await self._rules(name, [f"ip saddr {source} drop" for source in sources])

    async def lose(self, per_mille: int, names: Iterable[str]) -> None:
        """These nodes lose so many of a thousand packets from their peers."""
        faces = ", ".join(self.faces.values())
        for name in names:
            await self._rules(name, [f"ip saddr {{ {faces} }} numgen random mod 1000 < {per_mille} drop"])

    async def heal(self) -> None:
        for name in self.names:
            await self._rules(name, [])

    async def _rules(self, name: str, rules: list[str]) -> None:
        lines = ["flush chain inet verify input", *(f"add rule inet verify input {rule}" for rule in rules)]
        process = await asyncio.create_subprocess_exec(*self.prefix(name), "nft", "-f", "-",
                                                       stdin=asyncio.subprocess.PIPE)
        await process.communicate("\n".join(lines).encode())
        if process.returncode != 0:
            raise RuntimeError(f"nft did not take the rules of node {name}: {lines}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
