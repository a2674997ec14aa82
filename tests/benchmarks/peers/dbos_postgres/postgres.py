"""Postgres of the system's package, on a port and a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.peers.children import HOST, Child, Children
from tests.benchmarks.peers.installation import Installation, NotInstallable

MAJOR = 15
_USER = "postgres"
_PLACES = (f"/usr/lib/postgresql/{MAJOR}/bin", f"/usr/pgsql-{MAJOR}/bin", "/usr/local/bin", "/usr/bin")


def _find(directory: Path) -> None:
    for place in _PLACES:
        program = Path(place) / "postgres"
        if program.exists() and f" {MAJOR}." in _version(program):
            (directory / "bin").symlink_to(program.resolve().parent)
            return
    raise NotInstallable(f"there is no Postgres {MAJOR} on this machine; on Debian: apt-get install postgresql-{MAJOR}")


def _version(program: Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout


POSTGRES = Installation("postgres", (str(MAJOR),), ("setpriv",), _find)


async def start_postgres(children: Children, connections: int) -> tuple[Child, str]:
    """Its address, too. As it comes, so each commit is synced; only the number of connections is what is needed."""
    programs = POSTGRES.directory / "bin"
    data = children.directory / "postgres"
    user = _unprivileged(children.directory, data)
    made = await children.start(
        "initdb", [programs.resolve() / "initdb", "--pgdata", data, "--auth", "trust", "--username", _USER], user=user
    )
    if await made.process.wait():
        raise made.error("failed")
    port = next(free_ports())
    settings = {
        "listen_addresses": HOST, "port": port, "unix_socket_directories": "", "max_connections": connections,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    server = await children.start(
        "postgres", [programs.resolve() / "postgres", "-D", data, *options], user=user, end=signal.SIGINT
    )
    await server.wait_port(port)
    return server, f"postgresql+psycopg://{_USER}@{HOST}:{port}/bench"


def _unprivileged(directory: Path, data: Path) -> str | None:
    """Postgres does not run as root: for root, the name of a user who owns `data` then and can get there."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(_USER)
    directory.chmod(0o711)
    data.mkdir(mode=0o700)
    shutil.chown(data, user.pw_uid, user.pw_gid)
    return _USER
