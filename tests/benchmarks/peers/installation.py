"""Where the programs of peers are, and how they get there: pinned, into one directory each, never into the system."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.clusters import ROOT

CACHE = ROOT / ".make" / "peers"
_STAMP = ".installed"
_DOWNLOAD_S = 600


class NotInstallable(Exception):
    """The message says what is missing, or what a command said when it failed."""


@dataclass(frozen=True)
class Installation:
    """`install` fills an empty directory; a change of `pins`, files included, makes what is there worthless."""

    name: str
    pins: tuple[str | Path, ...]
    programs: tuple[str, ...]  # that installing or running it takes
    install: Callable[[Path], None]

    @property
    def directory(self) -> Path:
        return CACHE / self.name

    @property
    def installed(self) -> bool:
        stamp = self.directory / _STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self._fingerprint()

    def ensure(self) -> None:
        """Installs it unless it is."""
        if self.installed:
            return
        missing = [program for program in self.programs if shutil.which(program) is None]
        if missing:
            raise NotInstallable(f"{self.name} needs {', '.join(missing)}")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.install(self.directory)
        (self.directory / _STAMP).write_text(self._fingerprint(), encoding="utf-8")

    def _fingerprint(self) -> str:
        texts = [pin.read_text(encoding="utf-8") if isinstance(pin, Path) else pin for pin in self.pins]
        return hashlib.blake2b("\n".join([sys.version, *texts]).encode()).hexdigest()


def run(command: Sequence[str | Path], directory: Path) -> None:
    """Quiet unless it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=directory, capture_output=True, text=True, check=False,
            timeout=_DOWNLOAD_S, stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"{command[0]} took longer than {_DOWNLOAD_S} s") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise NotInstallable(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")


def make_venv(directory: Path, requirements: Path) -> None:
    """Exactly what the requirements say, checked by hash."""
    run([sys.executable, "-m", "venv", "venv"], directory)
    run([python(directory), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps",
         "--require-hashes", "--only-binary", ":all:", "-r", requirements], directory)


def python(directory: Path) -> Path:
    return directory / "venv" / "bin" / "python"
