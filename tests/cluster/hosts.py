"""Machines that are network namespaces: each has an address and a name of its own, and a folder as its disk.

Nothing of them has a name outside: when this process ends, in whatever way, they and all that runs on them are gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_HOLDER = [sys.executable, "-m", "orchestrator.verify.machines.holder"]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
# What a machine runs sees the names of all machines, and is killed with this process.
_IN_SIGHT_OF_ALL = 'mount --bind "$0" /etc/hosts && exec "$@"'


class Hosts:
    """Made by `open`, on one network: NAME is NAME.example, or in another domain, 10.0.0.1 and so on. Close it."""

    def __init__(self, folder: Path, names: list[str], domain: str = "example") -> None:
        self._folder = folder
        self._domain = domain
        self.addresses = {name: f"10.0.0.{number}" for number, name in enumerate(names, 1)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[subprocess.Popen[str]] = []

    def open(self) -> None:
        """Raises CalledProcessError where the kernel does not let us."""
        lines = ["127.0.0.1 localhost", *(f"{at} {name}.{self._domain}" for name, at in self.addresses.items())]
        (self._folder / "hosts").write_text("\n".join(lines) + "\n")
        command = self._folder / "bin" / "orchestrator"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m orchestrator "$@"\n')
        command.chmod(0o700)
        # A switch is a machine, too: the bridge is in nobody's way there.
        self._hold("switch")
        self._configure("switch", "link add bridge type bridge", "link set bridge up")
        for number, (name, address) in enumerate(self.addresses.items()):
            self._hold(name)
            self.disk(name).mkdir()
            self._configure("switch", f"link add to-{number} type veth peer name eth0 netns {self._holders[name].pid}",
                            f"link set to-{number} master bridge up")
            self._configure(name, "link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up")

    def _hold(self, name: str) -> None:
        holder = subprocess.Popen([*_HOLDER, str(os.getpid())], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._holders[name] = holder
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the namespace of {name} was not made")

    def _configure(self, name: str, *commands: str) -> None:
        for command in commands:
            subprocess.run([*self._entered(name), "ip", *command.split()], check=True)

    def _entered(self, name: str) -> list[str]:
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net"]

    def disk(self, name: str) -> Path:
        return self._folder / f"host-{name}"

    def start(self, name: str, script: str, **options: Any) -> subprocess.Popen[str]:
        """Lines of bash on that machine, in its folder, stopping at the first that fails."""
        command = ["unshare", "--mount", "sh", "-c", _IN_SIGHT_OF_ALL, str(self._folder / "hosts"),
                   "bash", "-euc", script]
        path = f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        started = subprocess.Popen([*self._entered(name), *command], text=True, stdin=subprocess.DEVNULL,
                                   **({"cwd": self.disk(name), "env": {**_ENVIRONMENT, "PATH": path}} | options))
        self._running.append(started)
        return started

    def run(self, name: str, script: str, *, timeout_s: float = 120, **options: Any) -> tuple[int, str]:
        """The exit code, and all that was printed."""
        started = self.start(name, script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        printed, _ = started.communicate(timeout=timeout_s)
        print(f"--- on {name}\n{script}\n{printed}")
        return started.returncode, printed

    def close(self) -> None:
        for process in (*self._running, *self._holders.values()):
            if process.poll() is None:
                process.kill()
            process.wait()
