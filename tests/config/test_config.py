"""What wins over what, and that everything wrong is refused with a message that names it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator import config
from orchestrator.config import SETTINGS, Address, Config, ConfigError, load

REQUIRED = {"node": "a", "data_dir": "/tmp/a"}


def write(directory: Path, text: str) -> Path:
    path = directory / "a.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("file", "environment", "flag", "expected"), [
    ("", None, None, 1_000),
    ("flush_interval_ms = 10", None, None, 10),
    ("flush_interval_ms = 10", "20", None, 20),
    ("flush_interval_ms = 10", "20", 30, 30),
    ("flush_interval_ms = 10", None, 30, 30),
    ("", "20", "30", 30),
])
def test_flags_win_over_environment_over_file_over_default(
        tmp_path: Path, file: str, environment: str | None, flag: Any, expected: int) -> None:
    variables = {"ORCHESTRATOR_FLUSH_INTERVAL_MS": environment} if environment else {}
    config = load(write(tmp_path, file), variables, {**REQUIRED, "flush_interval_ms": flag})
    assert config.flush_interval_ms == expected


def test_a_relative_data_dir_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'node = "a"\ndata_dir = "data/a"'), {}, {})
    assert config.data_dir == tmp_path / "data" / "a"


def test_what_kubernetes_injects_and_what_the_command_line_reads_are_not_settings() -> None:
    environment = {
        "ORCHESTRATOR_PORT": "tcp://10.0.0.1:7400", "ORCHESTRATOR_PORT_7400_TCP_ADDR": "10.0.0.1",
        "ORCHESTRATOR_SERVICE_HOST": "10.0.0.1", "ORCHESTRATOR_A_SERVICE_PORT_GRPC": "7400",
        "ORCHESTRATOR_ENDPOINTS": "a:7400", "OTHER": "x",
    }
    assert load(None, environment, REQUIRED) == Config(node="a", data_dir=Path("/tmp/a"))


@pytest.mark.parametrize(("file", "environment", "flags", "words"), [
    ('flush_intervall_ms = 1', {}, {}, ["a.toml", "'flush_intervall_ms'", "'flush_interval_ms'"]),
    ('[raft]\nheartbeat_ms = 1', {}, {}, ["unknown setting 'raft'"]),
    ('node = ', {}, {}, ["a.toml is not TOML"]),
    ('peer_tls_key = "k"', {}, {}, ["peer_tls_certificate must be set", "peer_tls_key", "peer_tls_authority"]),
    ('peer_tls_certificate = "c"\npeer_tls_key = "k"', {}, {}, ["peer_tls_authority must be set"]),
    ('flush_interval_ms = "soon"', {}, {}, ["a.toml", "flush_interval_ms", "whole number", "'soon'"]),
    ('flush_interval_ms = true', {}, {}, ["flush_interval_ms", "whole number", "True"]),
    ('flush_interval_ms = 1.5', {}, {}, ["flush_interval_ms", "whole number", "1.5"]),
    ('node = 1', {}, {}, ["node must be text"]),
    ('', {"ORCHESTRATOR_HEARTBEATS_MS": "1"}, {}, ["ORCHESTRATOR_HEARTBEATS_MS", "'ORCHESTRATOR_HEARTBEAT_MS'"]),
    ('', {"ORCHESTRATOR_HEARTBEAT_MS": "x"}, {}, ["environment variable ORCHESTRATOR_HEARTBEAT_MS", "'x'"]),
    ('', {}, {"heartbeat_ms": "x"}, ["flag --heartbeat-ms", "whole number"]),
    ('', {}, {"heartbeat_ms": 0}, ["heartbeat_ms must be from 5 to 5000, not 0"]),
    ('', {}, {"heartbeat_ms": 170}, ["election_timeout_min_ms must be above 3 * heartbeat_ms", "511", "not 500"]),
    ('', {}, {"election_timeout_max_ms": 500}, ["election_timeout_max_ms", "election_timeout_min_ms", "at least 501"]),
    ('', {}, {"entry_close_bytes": 1024**2, "max_queue_bytes": 1024**2}, ["max_queue_bytes", "entry_close_bytes"]),
    ('', {}, {"entries_in_flight": 5}, ["entries_in_flight must be from 1 to 4"]),
    ('', {}, {"log_format": "xml"}, ["log_format must be one of human, json, not 'xml'"]),
    ('', {}, {"task_environment_prefix": "A-"}, ["task_environment_prefix must be letters", "'A-'"]),
    ('', {}, {"task_environment_prefix": "9"}, ["task_environment_prefix must be letters", "'9'"]),
    ('', {}, {"task_environment_prefix": "ORCHESTRATOR_TASK_"}, ["task_environment_prefix must not begin", "settings"]),
    ('', {}, {"grpc_listen": "7400"}, ["grpc_listen", "host:port"]),
    ('', {}, {"blob_store": "directory"}, ["blob_directory must be set, too, as blob_store is directory"]),
    ('', {}, {"blob_store": "redis"}, ["redis_endpoints must be set, too, as blob_store is redis"]),
    ('', {}, {"blob_store": "s3"}, ["blob_store", "none", "directory", "redis"]),
    ('blob_directory = "values"', {}, {}, ["blob_directory is set", "blob_store is none"]),
    ('', {}, {"blob_store": "directory", "blob_directory": "d", "blob_bytes_max": 16 << 20}, ["blob_bytes_max"]),
    ('', {}, {"blob_store": "directory", "blob_directory": "d", "grpc_request_bytes_max": 1 << 20},
     ["grpc_request_bytes_max", "blob_bytes_max"]),
    ('', {}, {"redis_endpoints": "redis"}, ["redis_endpoints: 'redis' is not host:port"]),
    ('', {}, {"redis_endpoints": ":6379"}, ["redis_endpoints", "every interface"]),
    ('', {}, {"redis_endpoints": "a:1, b:1"}, ["redis_endpoints has 2 addresses", "set redis_sentinel_master"]),
    ('', {}, {"redis_tls": "yes"}, ["redis_endpoints must be set, too, as redis_tls is"]),
    ('redis_password_file = "p"', {}, {}, ["redis_endpoints must be set, too, as redis_password_file is"]),
    ('', {"ORCHESTRATOR_REDIS_PASSWORD": "x"}, {}, ["ORCHESTRATOR_REDIS_PASSWORD", "_FILE"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_username": "u"}, ["redis_password_file must be set, too"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_sentinel_username": "u"}, ["redis_sentinel_master must be set, too"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_sentinel_master": "m", "redis_sentinel_username": "u"},
     ["redis_sentinel_password_file must be set, too"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_tls_ca_file": "ca"}, ["redis_tls must be set, too"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_tls": "1", "redis_tls_key_file": "k"}, ["redis_tls_cert_file must be"]),
    ('', {}, {"redis_endpoints": "a:1", "redis_database": -1}, ["redis_database must be from 0"]),
    ('', {}, {"redis_group": "a b"}, ["redis_group must be 1 to 63", "'a b'"]),
    ('', {}, {"grpc_listen": ""}, ["grpc_listen must be host:port, not empty"]),
    ('', {}, {"peer_listen": "a:99999"}, ["peer_listen", "1 to 65535"]),
    ('', {}, {"peer_listen": "::1:7500"}, ["peer_listen", "[address]:port"]),
    ('', {}, {"grpc_listen": "0.0.0.0:7400"}, ["grpc_advertise must be set", "every interface"]),
    ('grpc_tls_certificate = "c"\ngrpc_tls_key = "k"', {}, {}, ["grpc_tls_authority must be set"]),
    ('grpc_tls_client_authority = "c"', {}, {}, ["grpc_tls_client_authority needs grpc_tls_certificate"]),
    ('metrics_tls = "on"', {}, {}, ["metrics_tls is on", "grpc_tls_certificate"]),
    ('insecure = "maybe"', {}, {}, ["a.toml", "insecure must be true or false", "'maybe'"]),
    ('insecure = 1', {}, {}, ["insecure must be true or false, not 1"]),
    ('', {}, {"node": "a b"}, ["node must be", "'a b'"]),
    ('', {}, {"node": None}, ["node is not set", "ORCHESTRATOR_NODE", "--node"]),
    ('', {}, {"data_dir": None}, ["data_dir is not set", "--data-dir"]),
])
def test_what_is_wrong_is_named(tmp_path: Path, file: str, environment: dict[str, str], flags: dict[str, Any],
                                words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, file), environment, {**REQUIRED, **flags})
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml can't be read: No such file"):
        load(tmp_path / "absent.toml", {}, REQUIRED)


def test_every_number_has_limits_that_its_default_keeps_and_every_setting_is_explained() -> None:
    for field in SETTINGS.values():
        assert field.metadata["about"]
        if field.type == "int":
            assert field.name.endswith(
                ("_ms", "_bytes", "_max", "_entries", "_commands", "_starts", "_slots", "_executions", "_flight",
                 "_per_second", "_burst", "_database"))
            assert field.metadata["min"] <= field.default <= field.metadata["max"]


def test_every_setting_is_used() -> None:
    derived = {"grpc_advertise": "grpc_address", "peer_advertise": "peer_address", "metrics_listen": "metrics_address"}
    derived |= {"metrics_tls": "metrics_with_tls", "insecure": "exposed"}
    sources = "".join(path.read_text() for path in Path(config.__file__).parent.rglob("*.py"))
    for name in SETTINGS:
        assert re.search(rf"\bconfig\.{derived.get(name, name)}\b", sources), f"{name} is accepted and ignored"


def test_a_config_made_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="flush_interval_ms"):
        dataclasses.replace(Config(node="a", data_dir=Path("x")), flush_interval_ms=0)


def test_addresses() -> None:
    config = Config(node="a", data_dir=Path("x"), grpc_listen=":7400", grpc_advertise="a.example:7400", insecure=True)
    assert config.grpc_address == Address("a.example", 7400)
    assert config.peer_address == Address("127.0.0.1", 7500)
    assert config.metrics_address is None
    assert str(Address.parse("[::1]:7500")) == "[::1]:7500"


TLS = {f"{port}_tls_{what}": what for port in ("peer", "grpc") for what in ("certificate", "key", "authority")}
BEYOND = {"grpc_listen": "10.0.0.1:7400", "peer_listen": "[fd00::1]:7500", "metrics_listen": "a.example:7600"}


RULES = {"access_file": "access.toml", "node_secret_file": "node.secret"}


@pytest.mark.parametrize("listen", BEYOND)
def test_beyond_loopback_it_takes_tls_or_the_word_for_going_without(listen: str) -> None:
    beyond = {**REQUIRED, **RULES, listen: BEYOND[listen]}
    with pytest.raises(ConfigError, match=rf"{listen} is .*_tls_certificate.*orchestrator tls init.*--insecure"):
        load(None, {}, beyond)
    for said in ({"insecure": True}, {"insecure": "true"}, TLS):
        assert load(None, {}, {**beyond, **said})
    assert load(None, {"ORCHESTRATOR_INSECURE": "true"}, beyond).exposed == [listen]
    assert load(None, {}, {**beyond, **TLS}).exposed == []


def test_beyond_loopback_it_takes_rules_or_certificates_or_the_word_that_everybody_may_do_everything() -> None:
    beyond = {**REQUIRED, **TLS, "grpc_listen": "10.0.0.1:7400"}
    with pytest.raises(ConfigError, match=r"everybody may do everything.*access_file.*client_authority.*--insecure"):
        load(None, {}, beyond)
    for said in (RULES, {"insecure": True}, {"grpc_tls_client_authority": "authority"}):
        assert load(None, {}, {**beyond, **said})
    assert load(None, {}, {**REQUIRED, **TLS, "peer_listen": "10.0.0.1:7500"})


def test_with_rules_nodes_need_a_way_to_know_each_other() -> None:
    with pytest.raises(ConfigError, match="node_secret_file must be set, too"):
        load(None, {}, {**REQUIRED, "access_file": "access.toml"})
    certificates = {**TLS, "grpc_tls_client_authority": "authority"}
    for said in ({"node_secret_file": "node.secret"}, certificates):
        assert load(None, {}, {**REQUIRED, "access_file": "access.toml", **said})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    config = load(None, {}, {**REQUIRED, **{name: f"{host}:{port}" for port, name in enumerate(BEYOND, start=7400)}})
    assert config.exposed == [] and not config.metrics_with_tls


def test_one_port_with_tls_does_not_excuse_the_other() -> None:
    peers = {name: value for name, value in TLS.items() if name.startswith("peer")}
    with pytest.raises(ConfigError, match="grpc_listen"):
        load(None, {}, {**REQUIRED, **BEYOND, **peers})


@pytest.mark.parametrize(("metrics", "tls", "listen", "https"), [
    ("auto", {}, "127.0.0.1:1", False), ("auto", TLS, "127.0.0.1:1", False), ("auto", TLS, "10.0.0.1:1", True),
    ("off", {}, "10.0.0.1:1", False), ("off", TLS, "10.0.0.1:1", False), ("on", TLS, "127.0.0.1:1", True),
])
def test_when_metrics_are_served_with_tls(metrics: str, tls: dict[str, str], listen: str, https: bool) -> None:
    config = load(None, {}, {**REQUIRED, **tls, "metrics_listen": listen, "metrics_tls": metrics})
    assert config.metrics_with_tls is https


def test_files_for_tls_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    config = load(write(tmp_path, "".join(f'{name} = "{value}"\n' for name, value in TLS.items())), {}, REQUIRED)
    assert config.grpc_tls_key == str(tmp_path / "key")
