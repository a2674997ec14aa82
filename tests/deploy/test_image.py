"""deploy/docker/Dockerfile: what a linter says of it, what may get into a build, and its instructions, carried out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.deploy.image import ROOT, Image

pytestmark = pytest.mark.long

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
PATIENCE_S = 60


def instructions(name: str) -> list[str]:
    with DOCKERFILE.open("rb") as source:
        return [one["value"] for one in DockerfileParser(fileobj=source).structure if one["instruction"] == name]


def test_a_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_are_named_by_version_and_can_be_named_by_digest() -> None:
    known = dict(one.split("=", 1) for one in instructions("ARG"))
    assert re.fullmatch(r"3\.\d+\.\d+", known["PYTHON_VERSION"])
    assert known["PYTHON_DIGEST"] == known["PYTHON_SLIM_DIGEST"] == ""
    for source in instructions("FROM"):
        assert re.match(r"python:\$\{PYTHON_VERSION\}-[a-z-]+\$\{PYTHON(_SLIM)?_DIGEST\}( |$)", source), source


def test_what_is_copied_is_all_that_may_get_into_a_build() -> None:
    """No data, key or history can be sent to a builder by accident."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    allowed = {line[1:] for line in patterns if line.startswith("!")}
    copied = {path for value in instructions("COPY") if "--from=" not in value for path in value.split()[:-1]}
    assert patterns[0] == "*" and allowed == copied
    assert all((ROOT / path).exists() for path in copied)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    """Built without the engine compiled, which takes minutes, unless COMPILED=1 in the environment asks for that."""
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "ip", "apt-get") if shutil.which(tool) is None]
    obstacle = f"not installed: {', '.join(missing)}" if missing else "" if os.geteuid() == 0 else "root is needed"
    if obstacle and os.environ.get("CI"):
        pytest.fail(f"an image can't be built: {obstacle}")
    if obstacle:
        pytest.skip(obstacle)
    made = Image(DOCKERFILE, tmp_path, COMPILED=os.environ.get("COMPILED", "0"))
    try:
        made.build()
        yield made
    finally:
        made.close()


def children(of: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{of.pid}/task/{of.pid}/children").read_text().split()]


def until_it_succeeds(node: subprocess.Popen[bytes], command: list[str]) -> str:
    """Its output. A node without a leader is healthy, too; status exits with an error then."""
    deadline = time.monotonic() + PATIENCE_S
    while (done := subprocess.run(command, check=False, capture_output=True, text=True)).returncode:
        assert node.poll() is None and time.monotonic() < deadline, f"waited for {command}: {done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_what_is_built_is_a_node_that_is_not_root_and_ends_in_order(image: Image) -> None:
    result = image.result
    said = result.last
    start, probe = json.loads(said["ENTRYPOINT"]), json.loads(said["HEALTHCHECK"].partition(" CMD ")[2])
    assert result.user == "10001:10001" and said["VOLUME"] == "/data" and start[0] == "tini"
    compiled = image.runs("find", "/opt/orchestrator", "-path", "*orchestrator/engine*", "-name", "*.so")
    assert bool(compiled) is (os.environ.get("COMPILED") == "1")
    # No tool that installs, no source of a build, and nothing of the image can be changed by who runs in it.
    assert not image.runs("find", "/opt/orchestrator", "-name", "pip", "-o", "-user", "10001")
    assert image.runs("stat", "-c", "%u %g %a", "/data") == "10001 10001 700\n"

    as_a = {"ORCHESTRATOR_NODE": "a", "ORCHESTRATOR_PEER_ADVERTISE": "127.0.0.1:7500",
            "ORCHESTRATOR_GRPC_ADVERTISE": "127.0.0.1:7400", "ORCHESTRATOR_INSECURE": "true"}
    image.runs(*start, "init", "--member", "a=127.0.0.1:7500", alone=True, **as_a)
    command = [*start, *json.loads(said["CMD"])]
    node = subprocess.Popen(image.inside(*command, alone=True, **as_a), stdin=subprocess.DEVNULL)
    try:
        until_it_succeeds(node, image.inside(*probe, alone=True, **as_a))
        status = image.inside(*start, "cluster", "status", "--endpoint", "127.0.0.1:7400", alone=True, **as_a)
        assert "LEADER" in until_it_succeeds(node, status)
        assert said["STOPSIGNAL"] == "SIGTERM"
        [first] = children(node)
        os.kill(first, signal.SIGTERM)
        assert node.wait(PATIENCE_S) == 0
    finally:
        # Whoever changes its user does not die with its parent.
        for child in children(node) if node.poll() is None else []:
            os.kill(child, signal.SIGKILL)
        node.kill()
        node.wait()
    with pytest.raises(subprocess.CalledProcessError):
        image.runs(*probe, alone=True, **as_a)
