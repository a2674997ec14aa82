"""Redis as Debian packages it, unpacked into the cache and started on a port of its own."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.peers.children import HOST, Child, Children
from tests.benchmarks.peers.installation import Installation, run

# The release of Debian decides on the last digits: its archive holds only one at a time.
_VERSION = "5:7.0.*"
_PACKAGES = (f"redis-server={_VERSION}", f"redis-tools={_VERSION}", "liblzf1", "libjemalloc2", "libatomic1")


def _unpack(directory: Path) -> None:
    run(["apt-get", "download", *_PACKAGES], directory)
    for package in directory.glob("*.deb"):
        run(["dpkg", "-x", package, directory / "root"], directory)
        package.unlink()
    run(["env", *(f"{name}={value}" for name, value in _environment(directory).items()), _program(directory),
         "--version"], directory)


def _program(directory: Path) -> Path:
    return directory / "root" / "usr" / "bin" / "redis-server"


def _environment(directory: Path) -> dict[str, str]:
    folders = sorted((directory / "root" / "usr" / "lib").glob("*-linux-gnu"))
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


REDIS = Installation("redis", _PACKAGES, ("apt-get", "dpkg", "setpriv"), _unpack)


async def start_redis(children: Children, appendfsync: str) -> tuple[Child, int]:
    """Its port, too. Everything is in the append-only file, as in a deployment that means to keep it; no snapshots."""
    port = next(free_ports())
    child = await children.start(
        "redis",
        [
            _program(REDIS.directory), "--bind", HOST, "--port", str(port), "--dir", children.directory,
            "--appendonly", "yes", "--appendfsync", appendfsync, "--save", "",
        ],
        environment=_environment(REDIS.directory),
    )
    await child.wait_port(port)
    return child, port
