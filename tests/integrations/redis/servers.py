"""Real Redis servers and Sentinels for a test: started in its directory, on free ports, and gone when it is over.

What is done to a server happens at once and is over when the call returns, so tests with and without a loop can use it.
Where `redis-server` is missing `needs_redis` skips; where CI is set the test fails instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis

from orchestrator.cli.local_cluster import free_ports
from tests.replication.certificates import Files

HOST = "127.0.0.1"
DEADLINE_S = 60.0
# Whom tests look at a server as, whatever else it admits.
ADMIN, ADMIN_PASSWORD = "admin", "only-for-tests"

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None and not os.environ.get("CI"),
                                 reason="redis-server is missing: apt-get install redis-server redis-sentinel")


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """What the condition returns, or awaits, once that is true; fails after a generous deadline, saying what for."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {deadline_s:.0f} s for {what}") from None


def until_now(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The same without a loop."""
    ends = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(0.005)
    return found


class _Process:
    """A process of redis-server; what it says goes to `log`.

    `tls`: serves nothing else then, nor calls others otherwise; `tls_clients`: callers must show a certificate of the
    same authority. `users`: lines of an ACL, as `user app on >password ~* +@all`; with any, only these are admitted,
    and the administrator.
    """

    def __init__(
        self, directory: Path, name: str, *, users: Sequence[str] = (), tls: Files | None = None,
        tls_clients: bool = False,
    ) -> None:
        self.name = name
        self._users = [*users, "user default off"] if users else []
        self._tls = tls
        self._tls_clients = tls_clients
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.log = self.directory / "log"
        self.port = next(free_ports())
        self._process: subprocess.Popen[bytes] | None = None

    def _serving(self) -> list[str]:
        """Lines of a configuration that say where it serves, and how."""
        lines = [f"bind {HOST}", "protected-mode no", f"user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all"]
        if self._tls is None:
            return [*lines, f"port {self.port}"]
        return [
            *lines, "port 0", f"tls-port {self.port}", "tls-replication yes", f"tls-cert-file {self._tls.certificate}",
            f"tls-key-file {self._tls.key}", f"tls-ca-cert-file {self._tls.authority}",
            f"tls-auth-clients {'yes' if self._tls_clients else 'no'}",
        ]

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def client(self) -> redis.Redis:
        """For the test itself, as an administrator. Answers are text."""
        tls = {} if self._tls is None else {
            "ssl": True, "ssl_ca_certs": str(self._tls.authority), "ssl_certfile": str(self._tls.certificate),
            "ssl_keyfile": str(self._tls.key),
        }
        return redis.Redis(host=HOST, port=self.port, username=ADMIN, password=ADMIN_PASSWORD, decode_responses=True,
                           socket_timeout=DEADLINE_S, protocol=2, **tls)

    def command(self, *words: Any) -> Any:
        """One command of the administrator, over a connection of its own."""
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def _run(self, *arguments: str | Path) -> None:
        assert not self.runs, f"{self.name} runs already"
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is missing: apt-get install redis-server redis-sentinel"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until_now(self._answers, f"{self.name} to answer; its log is\n{self.log.read_text(errors='replace')}")

    def _answers(self) -> bool:
        assert self.runs, f"{self.name} has ended:\n{self.log.read_text(errors='replace')}"
        try:
            return bool(self.command("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def stop(self) -> None:
        """As an operator does it; a server that is paused or gone is dealt with, too."""
        if self._process is not None and self.runs:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._wait()

    def kill(self) -> None:
        """kill -9: nothing is said, nothing is saved."""
        if self._process is not None and self.runs:
            self._process.kill()
        self._wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None and self.runs, f"{self.name} does not run"
        self._process.send_signal(number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=DEADLINE_S)
            self._process = None


class RedisServer(_Process):
    """Keeps its port, its settings and, in an append-only file that is synced with each write, its data.

    `password`: of the default user. `settings`: more lines of redis.conf. `options`: of all servers.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "redis",
        *,
        password: str = "",
        appendonly: bool = True,
        replica_of: RedisServer | None = None,
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(directory, name, **options)
        self.data = self.directory / "data"
        self._password = password
        self._appendonly = appendonly
        self._replica_of = replica_of
        self._settings = dict(settings or {})

    def start(self) -> None:
        """Returns when it answers, with whatever data it has, and if it is a replica, has those of its master."""
        self.data.mkdir(exist_ok=True)
        file = self.directory / "redis.conf"
        file.write_text("\n".join(self._lines()) + "\n")
        self._run(file)
        if self._replica_of is not None:
            until_now(lambda: self.replication().get("master_link_status", "up") == "up", f"{self.name} to follow")

    def restart(self, *, keep_data: bool = True) -> None:
        """After `stop` or `kill`, or killed by this. Without its data it is as if it had been made anew."""
        self.kill()
        if not keep_data:
            self.lose_data()
        self.start()

    def lose_data(self) -> None:
        """While it does not run."""
        assert not self.runs, f"{self.name} runs"
        shutil.rmtree(self.data, ignore_errors=True)

    def replication(self) -> dict[str, Any]:
        """What it says of that: its `role`, ..."""
        return dict(self.command("INFO", "replication"))

    def entries(self, stream: str) -> list[tuple[str, dict[str, str]]]:
        """All of a stream, in order; none if there is no such stream."""
        client = self.client()
        with contextlib.closing(client):
            return client.xrange(stream)

    def _lines(self) -> list[str]:
        default = f"user default on {f'>{self._password}' if self._password else 'nopass'} ~* &* +@all"
        lines = [
            *self._serving(), *(self._users or [default]), f"dir {self.data}", 'save ""',
            f"appendonly {'yes' if self._appendonly else 'no'}", "appendfsync always", "repl-diskless-sync-delay 0",
            # As what replicas come, also to one that becomes the master some day.
            f"masteruser {ADMIN}", f"masterauth {ADMIN_PASSWORD}",
        ]
        if self._replica_of is not None:
            lines.append(f"replicaof {HOST} {self._replica_of.port}")
        return [*lines, *(f"{name} {value}" for name, value in self._settings.items())]


class SentinelServer(_Process):
    """Alone it decides, within about a second, that the master is down, and which replica is the next one.

    `options`: of all servers.
    """

    def __init__(
        self,
        directory: Path,
        master: RedisServer,
        name: str = "sentinel",
        *,
        master_name: str = "main",
        down_after_ms: int = 300,
        **options: Any,
    ) -> None:
        super().__init__(directory, name, **options)
        self.master_name = master_name
        self._file = self.directory / "sentinel.conf"
        # It writes down in it what it finds out.
        self._file.write_text("\n".join([
            *self._serving(), *self._users, f"dir {self.directory}",
            f"sentinel monitor {master_name} {HOST} {master.port} 1",
            f"sentinel auth-user {master_name} {ADMIN}", f"sentinel auth-pass {master_name} {ADMIN_PASSWORD}",
            f"sentinel down-after-milliseconds {master_name} {down_after_ms}",
            f"sentinel failover-timeout {master_name} 3000",
        ]) + "\n")

    def start(self) -> None:
        self._run(self._file, "--sentinel")

    def master_port(self) -> int:
        """Of the one that it takes for the master now."""
        return int(self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)[1])

    def knows_replicas(self, count: int) -> bool:
        """So many, with which it is in touch: it could make one of them the master."""
        replicas = [dict(zip(said[::2], said[1::2], strict=True)) if isinstance(said, list) else said
                    for said in self.command("SENTINEL", "REPLICAS", self.master_name)]
        return sum(said["master-link-status"] == "ok" and said["flags"] == "slave" for said in replicas) >= count


class Servers:
    """Those of one test. All are gone after the `with`, or after `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all: list[_Process] = []

    def redis(self, name: str = "redis", **options: Any) -> RedisServer:
        """Started; the options are those of RedisServer."""
        server = RedisServer(self._directory, name, **options)
        self._all.append(server)
        server.start()
        return server

    def sentinel(self, master: RedisServer, name: str = "sentinel", **options: Any) -> SentinelServer:
        """Started; the options are those of SentinelServer."""
        sentinel = SentinelServer(self._directory, master, name, **options)
        self._all.append(sentinel)
        sentinel.start()
        return sentinel

    def stop(self) -> None:
        """At once: what tests have to see of a stop they do themselves."""
        for server in reversed(self._all):
            server.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
