"""Containers as processes: what a compose file or a pod says is run, with the image's settings, on hosts of a test."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from dockerfile_parse import DockerfileParser

from tests.cluster.hosts import Hosts
from tests.deploy.tools import ROOT

PATIENCE_S = 60
# Nothing of who runs the test, whose variables may be settings, too.
_OURS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def image_environment() -> dict[str, str]:
    """What the Dockerfile's last stage sets, without the place of programs, which is another one here."""
    last = (ROOT / "deploy" / "docker" / "Dockerfile").read_bytes().rpartition(b"\nFROM ")
    parser = DockerfileParser(fileobj=io.BytesIO(last[1].lstrip() + last[2]), env_replace=False)
    values = [one["value"] for one in parser.structure if one["instruction"] == "ENV"]
    found = dict(word.split("=", 1) for value in values for word in shlex.split(value))
    found.pop("PATH")
    return found


def asks(port: int, page: str) -> list[str]:
    """A command that asks as a kubelet does."""
    request = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {page} HTTP/1.1\\r\\n\\r\\n' >&3"
    return ["bash", "-c", f"{request}; head -1 <&3 | grep -q ' 200 '"]


def install_tini(folder: Path) -> None:
    """In its place, where it may not be installed: it only hands signals on."""
    tini = folder / "bin" / "tini"
    tini.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    tini.chmod(0o700)


class Container:
    """One of an image of this project's. `places`: paths in it, and where they are instead."""

    def __init__(self, hosts: Hosts, host: str, environment: Mapping[str, str], places: Mapping[str, Path]) -> None:
        self._hosts = hosts
        self.host = host
        self._places = places
        self.environment = {name: self.there(value)
                            for name, value in {**image_environment(), **environment}.items()}
        self.process: subprocess.Popen[str] | None = None

    def there(self, text: str) -> str:
        for inside, outside in self._places.items():
            text = text.replace(inside, str(outside))
        return text

    @property
    def log(self) -> Path:
        return self._hosts.disk(self.host) / "log"

    def start(self, command: list[str]) -> None:
        with self.log.open("a") as log:
            self.process = self._hosts.start(self.host, f"exec {shlex.join(map(self.there, command))}", stdout=log,
                                             stderr=log, env=self._all)

    def run(self, command: list[str], **more: str) -> tuple[int, str]:
        return self._hosts.run(self.host, shlex.join(map(self.there, command)), env=self._all | more)

    def wait(self, probe: list[str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.run(probe)[0] != 0:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"waited for {self.host} to pass {probe}"

    @property
    def _all(self) -> dict[str, str]:
        path = f"{self._hosts.disk(self.host).parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": "/", **_OURS, **self.environment}
