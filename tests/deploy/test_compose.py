"""deploy/docker/compose.yaml as docker-compose reads it, and what it says of the nodes, run: a cluster comes of it."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config import load
from tests.cluster.hosts import Hosts
from tests.cluster.test_three_hosts import commands, hosts_obstacle
from tests.deploy.containers import Container, asks, image_environment, install_tini
from tests.deploy.tools import ROOT, found

FOLDER = ROOT / "deploy" / "docker"
NODES = ["a", "b", "c"]
# Cheaper to ask again and again than the command that Docker runs.
IN_SERVICE = asks(7600, "/readyz")
GIVEN = {"CLUSTER_ID": secrets.token_hex(16), "GRAFANA_PASSWORD": "x"}


def compose(*files: str, profile: str = "", **given: str) -> subprocess.CompletedProcess[str]:
    command = [found("docker-compose"), *(f"--file={file}" for file in files),
               *([f"--profile={profile}"] if profile else []), "config"]
    environment = {"PATH": os.environ["PATH"], **given}
    return subprocess.run(command, cwd=FOLDER, env=environment, text=True, capture_output=True, check=False)


def services(*files: str, profile: str = "", **given: str) -> dict[str, dict[str, Any]]:
    done = compose("compose.yaml", *files, profile=profile, **GIVEN, **given)
    assert done.returncode == 0, done.stderr
    read: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return read


def test_every_service_is_limited_watched_and_of_a_known_version() -> None:
    read = services(profile="redis")
    assert read.keys() == {*NODES, "prometheus", "grafana", "redis"}
    for name, service in read.items():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), service["image"]
        assert {"healthcheck", "restart", "mem_limit", "cpus", "cap_drop"} <= service.keys(), name
        # Beyond this machine nothing can be reached.
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_what_is_mounted_is_there() -> None:
    """Docker would make an empty folder of a file that is missing."""
    read = services(profile="redis")
    mounts = [volume.split(":")[0] for service in read.values() for volume in service.get("volumes", [])]
    files = [Path(mount) for mount in mounts if mount.startswith("/")]
    assert {"prometheus.yml", "alerts.yaml", "provisioning", "dashboard.json"} == {file.name for file in files}
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("missing", GIVEN)
def test_what_has_to_be_chosen_has_no_default(missing: str) -> None:
    done = compose("compose.yaml", **{name: value for name, value in GIVEN.items() if name != missing})
    assert done.returncode != 0 and "is not set" in done.stderr


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if reason := hosts_obstacle():
        pytest.skip(reason)
    made = Hosts(tmp_path, [*NODES, "ops"])
    try:
        made.open()
        install_tini(tmp_path)
        yield made
    finally:
        made.close()


def containers(hosts: Hosts, read: dict[str, dict[str, Any]]) -> dict[str, Container]:
    """The nodes of a compose file, started."""
    made = {}
    for name in NODES:
        service = read[name]
        assert service["networks"]["nodes"]["aliases"] == [f"{name}.example"]
        mounts = [volume.split(":") for volume in service["volumes"]]
        assert [name, "/data", "rw"] in mounts
        folders = {inside: Path(outside) for outside, inside, _ in mounts if outside.startswith("/")}
        places = {"/data": hosts.disk(name) / "data", **folders}
        made[name] = Container(hosts, name, service["environment"], places)
        # As Docker does it: two dollars are one.
        made[name].start([word.replace("$$", "$") for word in (*service["entrypoint"], *service["command"])])
    return made


def test_nodes_serve_without_tls_as_the_file_says() -> None:
    read = services()
    for name in NODES:
        config = load(None, {**image_environment(), **read[name]["environment"]}, {})
        assert (config.node, config.peer_advertise) == (name, f"{name}.example:7500")
        assert config.insecure and "peer_listen" in config.exposed
        # Published under the number that clients are told.
        assert f"127.0.0.1:{config.grpc_address.port}:{config.grpc_address.port}" in str(read[name]["ports"])


def test_nodes_with_redis_call_the_one_of_the_file() -> None:
    read = services("compose.redis.yaml", profile="redis")
    for name in NODES:
        [address] = load(None, {**image_environment(), **read[name]["environment"]}, {}).redis_addresses
        assert address == ("redis", 6379)
        assert read[name]["networks"].keys() & read["redis"]["networks"].keys()


@pytest.mark.long
def test_the_nodes_of_the_file_are_a_cluster(hosts: Hosts) -> None:
    read = services("compose.secure.yaml", HOSTS=str(make_hosts_folders(hosts)))
    token = (hosts.disk("ops") / "shop" / "admin.token").read_text().strip()
    nodes = containers(hosts, read)
    for name, node in nodes.items():
        node.wait(IN_SERVICE)
        assert node.run(read[name]["healthcheck"]["test"][1:]) == (0, f"node {name} is in service\n")
    code, said = nodes["b"].run(["orchestrator", "cluster", "leader"], ORCHESTRATOR_TOKEN=token)
    assert code == 0 and re.match(r"(a a\.example:7400|b b\.example:7401|c c\.example:7402)\n", said)
    assert nodes["b"].run(["orchestrator", "cluster", "leader"])[0] == 4

    # Started again, each is the node that it was.
    again = nodes["b"]
    assert again.process is not None and read["b"]["stop_grace_period"] == "30s"
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(30) == 0
    again.start([*read["b"]["entrypoint"], *read["b"]["command"]])
    again.wait(IN_SERVICE)
    assert "there is already node b" in again.log.read_text()


def make_hosts_folders(hosts: Hosts) -> Path:
    """As steps 1 to 6 of the page make them."""
    disk = hosts.disk("ops")
    (disk / "project").mkdir()
    (disk / "project" / "deploy").symlink_to(ROOT / "deploy")
    blocks = commands("Three nodes")
    making = next(index for index, block in enumerate(blocks) if block.startswith("NODE=a\n"))
    code, printed = hosts.run("ops", "\n".join(blocks[:making]), cwd=disk / "project")
    assert code == 0, printed
    return disk / "shop" / "hosts"
