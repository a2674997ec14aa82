"""Certificates for a test, made by the `openssl` command; without it the tests that need them are skipped."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Files:
    """As the settings of a node name them."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """Signs certificates."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.certificate, self._key = self.directory / "authority.pem", self.directory / "authority.key"
        arguments = ["-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}"]
        _openssl("req", "-x509", *_NEW_KEY, *arguments, "-days", "2", "-addext", "keyUsage=critical,keyCertSign")

    def sign(self, name: str, host: str = "IP:127.0.0.1") -> Files:
        """A certificate for the host, for both ends of a connection."""
        made = Files(self.directory / f"{name}.pem", self.directory / f"{name}.key", self.certificate)
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={host}\n")
        _openssl("req", "-new", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        signing = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, "-out", made.certificate, "-days", "2", *signing)
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
