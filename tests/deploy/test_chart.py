"""deploy/helm/: rendered by Helm, held against Kubernetes' schemas, and its pods run: a cluster that grows."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.config import SETTINGS, load
from tests.cluster.hosts import Hosts
from tests.cluster.test_three_hosts import hosts_obstacle
from tests.deploy.chart import DOMAIN, RELEASE, Pod, helm, of_kind, rendered, template
from tests.deploy.containers import PATIENCE_S, install_tini
from tests.deploy.test_systemd import REST_SECONDS
from tests.deploy.tools import ROOT
from tests.deploy.values_schema import CHART

CHOSEN = {"clusterId": secrets.token_hex(16)}
INSECURE: dict[str, Any] = {**CHOSEN, "insecure": True}
SECURE: dict[str, Any] = {
    **CHOSEN, "tls": {"secretName": "shop-tls"}, "access": {"secretName": "shop-access"},
    "secretKeys": {"secretName": "shop-keys"}, "settings": {"heartbeat_ms": 100, "system_drain_ms": 60_500},
    "image": {"digest": "sha256:" + "0" * 64}, "antiAffinity": "preferred", "metrics": {"tls": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "prometheusRule": {"enabled": True},
    "extraEnv": [{"name": "CONDUCTOR_ENV_REGION", "value": "eu"}], "persistence": {"storageClass": "fast"},
    "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "priorityClassName": "high", "nodeSelector": {"e": "f"},
    "tolerations": [{"key": "g", "operator": "Exists"}], "imagePullSecrets": [{"name": "registry"}],
}
REDIS: dict[str, Any] = {
    **INSECURE, "settings": {"redis_endpoints": "redis:6379", "redis_username": "shop", "redis_tls": True},
    "redis": {"secretName": "shop-redis", "password": "password", "authority": "ca.crt"},
}
FIVE: dict[str, Any] = {**INSECURE, "replicas": 5, "initialReplicas": 5, "networkPolicy": {"enabled": False}}
VALUES = {"insecure": INSECURE, "secure": SECURE, "redis": REDIS, "five": FIVE}
# What others define, and no schema of Kubernetes' own.
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("kubernetes", ["1.27.0", "1.37.0"])
def test_kubernetes_knows_every_field(values: dict[str, Any], kubernetes: str) -> None:
    manifests = rendered(values, kubernetes)
    kinds = {one["kind"] for one in manifests}
    assert {"StatefulSet", "Service", "ServiceAccount", "PodDisruptionBudget"} <= kinds
    assert ("NetworkPolicy" in kinds) is (values is not FIVE)
    assert (kinds >= OF_THE_OPERATOR) is (values is SECURE)
    for manifest in manifests:
        if manifest["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)
    broken = copy.deepcopy(of_kind(manifests, "StatefulSet"))
    broken["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes, strict=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing(values: dict[str, Any]) -> None:
    done = helm("lint", "--strict", "--kube-version=1.37.0", CHART, values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("values", "said"), [
    ({}, "clusterId must be set"),
    (CHOSEN, "tls.secretName must be set"),
    ({**CHOSEN, "tls": {"secretName": "a"}}, "access.secretName"),
    ({**INSECURE, "tls": {"secretName": "a"}}, "contradict"),
    ({**INSECURE, "metrics": {"tls": True}}, "needs tls.secretName"),
    ({**INSECURE, "clusterId": "shop"}, "clusterId"),
    ({**INSECURE, "replicas": 0}, "replicas"),
    ({**INSECURE, "replica": 3}, "replica"),
    ({**INSECURE, "antiAffinity": "sometimes"}, "antiAffinity"),
    ({**INSECURE, "persistence": {"size": "big"}}, "size"),
    ({**INSECURE, "settings": {"heartbeat_ms": 1}}, "heartbeat_ms"),
    ({**INSECURE, "settings": {"redis_password_file": "/data/password"}}, "redis_password_file"),
    ({**INSECURE, "redis": {"password": "password"}}, "redis.secretName must be set"),
    ({**INSECURE, "settings": {"hartbeat_ms": 50}}, "hartbeat_ms"),
    ({**INSECURE, "settings": {"grpc_listen": "0.0.0.0:1"}}, "grpc_listen"),
    ({**INSECURE, "extraEnv": [{"name": "ORCHESTRATOR_NODE", "value": "a"}]}, "extraEnv"),
])
def test_what_is_wrong_is_refused(values: dict[str, Any], said: str) -> None:
    done = template(values, "1.37.0")
    assert done.returncode != 0 and said in done.stderr, done.stderr


def test_a_pod_has_the_time_that_a_stop_takes_and_is_no_root() -> None:
    for values, drain_ms in ((INSECURE, SETTINGS["system_drain_ms"].default), (SECURE, 60_500)):
        spec = of_kind(rendered(values), "StatefulSet")["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] >= drain_ms / 1000 + REST_SECONDS
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
        for container in (*spec["initContainers"], *spec["containers"]):
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] and confined["capabilities"] == {"drop": ["ALL"]}


def test_what_redis_needs_is_in_its_secret() -> None:
    spec = of_kind(rendered(REDIS), "StatefulSet")["spec"]["template"]["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        redis = {one["name"]: one["value"] for one in container["env"] if "REDIS" in one["name"]}
        assert redis == {
            "ORCHESTRATOR_REDIS_ENDPOINTS": "redis:6379", "ORCHESTRATOR_REDIS_USERNAME": "shop",
            "ORCHESTRATOR_REDIS_TLS": "true", "ORCHESTRATOR_REDIS_PASSWORD_FILE": "/etc/orchestrator/redis/password",
            "ORCHESTRATOR_REDIS_TLS_CA_FILE": "/etc/orchestrator/redis/ca.crt",
        }
        config = load(None, redis, {"node": "a", "data_dir": "/data"})
        assert config.redis_tls and config.redis_password_file == "/etc/orchestrator/redis/password"
        assert {"name": "redis", "mountPath": "/etc/orchestrator/redis", "readOnly": True} in container["volumeMounts"]
    [volume] = [one for one in spec["volumes"] if one["name"] == "redis"]
    assert volume["secret"]["secretName"] == "shop-redis"


def test_nothing_kills_a_node_that_waits_for_a_leader() -> None:
    [node] = of_kind(rendered(INSECURE), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    pages = {name: node[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert pages == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_more_pods_are_no_reason_to_restart_those_that_are_there() -> None:
    three, more = (of_kind(rendered({**INSECURE, "replicas": count}), "StatefulSet")["spec"] for count in (3, 5))
    assert (three.pop("replicas"), more.pop("replicas")) == (3, 5) and three == more


def test_the_rules_are_those_of_the_page() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text())
    assert of_kind(rendered(SECURE), "PrometheusRule")["spec"] == rules
    [scrape] = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    [endpoint] = of_kind(rendered(SECURE), "ServiceMonitor")["spec"]["endpoints"]
    [relabeling] = endpoint["relabelings"]
    assert (relabeling["targetLabel"], relabeling["replacement"]) == ("job", scrape["job_name"])


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if reason := hosts_obstacle():
        pytest.skip(reason)
    made = Hosts(tmp_path, [f"{RELEASE}-{number}" for number in range(4)], DOMAIN)
    try:
        made.open()
        install_tini(tmp_path)
        yield made
    finally:
        made.close()


def make_secrets(hosts: Hosts, folder: Path) -> str:
    """Those that the values name; answers the token of an admin."""
    names = ",".join(f"{RELEASE}-{number}.{DOMAIN}" for number in range(4))
    script = f"""
        mkdir shop-tls shop-access shop-keys
        orchestrator tls init made --node {RELEASE}={names}
        mv made/{RELEASE}.pem shop-tls/tls.crt; mv made/{RELEASE}.key shop-tls/tls.key
        mv made/authority.pem shop-tls/ca.crt
        printf %s {secrets.token_hex(32)} > shop-access/node.secret
        orchestrator secret key > shop-keys/secret.keys; chmod 600 shop-keys/secret.keys
        orchestrator access token admin --json"""
    code, said = hosts.run(f"{RELEASE}-0", script, cwd=folder)
    assert code == 0, said
    token = json.loads(said[said.index("{"):])
    (folder / "shop-access" / "access.toml").write_text(
        f'[[token]]\nname = "admin"\nhash = "{token["hash"]}"\n\n'
        '[[grant]]\nto = ["admin"]\nrole = "admin"\nnamespaces = ["*"]\n')
    return str(token["token"])


@pytest.mark.long
def test_the_pods_are_a_cluster_that_grows_and_heals(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    token = make_secrets(hosts, folder)
    stateful_set = of_kind(rendered({**SECURE, "metrics": {"tls": False}}), "StatefulSet")
    pods = [Pod(hosts, stateful_set, number, folder) for number in range(4)]
    first, new = pods[:3], pods[3]
    for pod in first:
        pod.start()
    for pod in first:
        pod.container.wait(pod.probe("readinessProbe"))

    new.start()
    new.container.wait(new.probe("livenessProbe"))
    assert new.container.run(new.probe("readinessProbe"))[0] != 0
    status = ["orchestrator", "cluster", "status", "--json"]
    add = ["orchestrator", "cluster", "add", new.name]
    code, said = first[0].container.run(add, ORCHESTRATOR_TOKEN=token)
    assert code == 0, said
    new.container.wait(new.probe("readinessProbe"))
    deadline = time.monotonic() + PATIENCE_S
    roles: dict[str, str] = {}
    while sorted(roles.values()) != ["FOLLOWER"] * 3 + ["LEADER"]:
        assert time.monotonic() < deadline, f"waited for {new.name} to have a vote: {roles}"
        code, said = new.container.run(status, ORCHESTRATOR_TOKEN=token)
        roles = {node["name"]: node["role"] for node in json.loads(said)["nodes"]} if code == 0 else {}
    assert roles.keys() == {pod.name for pod in pods}

    # Another pod in its place finds an empty volume, and is admitted by hand.
    lost = first[1]
    assert lost.container.process is not None
    lost.container.process.kill()
    lost.container.process.wait()
    shutil.rmtree(hosts.disk(lost.name) / "data")
    lost.start()
    lost.container.wait(lost.probe("livenessProbe"))
    assert lost.container.run(lost.probe("readinessProbe"))[0] != 0
    replace = ["orchestrator", "cluster", "replace", lost.name]
    code, said = first[0].container.run(replace, ORCHESTRATOR_TOKEN=token)
    assert code == 0, said
    lost.container.wait(lost.probe("readinessProbe"))


def test_a_chart_is_packed_with_all_that_it_needs(tmp_path: Path) -> None:
    """The rules are a link to another folder, which is not there where the chart is used."""
    done = helm("package", CHART, f"--destination={tmp_path}")
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("*.tgz")
    read = subprocess.run(["tar", "-xOzf", archive, "orchestrator-cluster/files/alerts.yaml"], capture_output=True,
                          check=True)
    assert read.stdout == (ROOT / "deploy" / "monitoring" / "alerts.yaml").read_bytes()
