"""The chart as Helm renders it, and its pods as processes on hosts of a test."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from tests.cluster.hosts import Hosts
from tests.deploy.containers import Container, asks
from tests.deploy.tools import ROOT, found
from tests.deploy.values_schema import CHART

RELEASE = "shop"
DOMAIN = f"{RELEASE}-peers.default.svc.cluster.local"
Manifest = dict[str, Any]


def helm(*arguments: str | Path, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Only what is in the chart: nothing of who runs the test, and no cluster."""
    command = [found("helm", where=str(ROOT / ".make" / "helm")), *arguments]
    given = ["--values=-"] if values is not None else []
    return subprocess.run([*command, *given], input=json.dumps(values), text=True, capture_output=True, check=False,
                          env={"HOME": "/nonexistent", "KUBECONFIG": "/dev/null"})


def template(values: dict[str, Any], kubernetes: str) -> subprocess.CompletedProcess[str]:
    return helm("template", RELEASE, CHART, f"--kube-version={kubernetes}", values=values)


def rendered(values: dict[str, Any], kubernetes: str = "1.37.0") -> list[Manifest]:
    done = template(values, kubernetes)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    [one] = [one for one in manifests if one["kind"] == kind]
    return one


class Pod:
    """One of the set's, with the secrets that it mounts in folders, by their names."""

    def __init__(self, hosts: Hosts, stateful_set: Manifest, number: int, secrets: Path) -> None:
        spec = stateful_set["spec"]["template"]["spec"]
        self.name = f"{stateful_set['metadata']['name']}-{number}"
        [self._init], [self._node] = spec["initContainers"], spec["containers"]
        folders = {volume["name"]: secrets / volume["secret"]["secretName"]
                   for volume in spec["volumes"] if "secret" in volume}
        folders |= {"data": hosts.disk(self.name) / "data", "tmp": Path("/tmp")}
        places = {mount["mountPath"]: folders[mount["name"]] for mount in self._node["volumeMounts"]}
        del places["/tmp"]
        self.container = Container(hosts, self.name, self._environment(), places)

    def start(self) -> None:
        """Raises AssertionError if the container that goes before fails."""
        code, said = self.container.run(self._command(self._init))
        assert code == 0, said
        self.container.start(self._command(self._node))

    def probe(self, name: str) -> list[str]:
        page = self._node[name]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in self._node["ports"]}
        assert page["scheme"] == "HTTP"
        return asks(ports[page["port"]], page["path"])

    def _environment(self) -> dict[str, str]:
        """As Kubernetes makes it: a value may name variables before it."""
        assert self._node["env"] == self._init["env"]
        made: dict[str, str] = {}
        for one in self._node["env"]:
            if "valueFrom" in one:
                assert one["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            made[one["name"]] = _expanded(one.get("value", self.name), made)
        return made

    def _command(self, container: Manifest) -> list[str]:
        return [*_entry_point(), *(_expanded(word, self._environment()) for word in container["args"])]


def _expanded(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text)


def _entry_point() -> Iterator[str]:
    with (ROOT / "deploy" / "docker" / "Dockerfile").open("rb") as file:
        [value] = [one["value"] for one in DockerfileParser(fileobj=file).structure
                   if one["instruction"] == "ENTRYPOINT"]
    yield from json.loads(value)
