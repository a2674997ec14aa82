"""What a node's settings mean for its link."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import Address, load
from orchestrator.integrations.redis.settings import Identity, RedisSettings, TlsFiles

BEGINNING = 'node = "a"\ndata_dir = "a"\n'


def read(directory: Path, text: str) -> RedisSettings | None:
    file = directory / "a.toml"
    file.write_text(BEGINNING + text)
    return RedisSettings.of(load(file, {}, {}))


def test_no_endpoints_are_no_redis(tmp_path: Path) -> None:
    assert read(tmp_path, "") is None


def test_one_redis(tmp_path: Path) -> None:
    assert read(tmp_path, 'redis_endpoints = "r:6379"') == RedisSettings(
        endpoints=(Address("r", 6379),), timeout_ms=2_000, client_name="orchestrator-a")


def test_all_of_it_with_files_beside_the_settings(tmp_path: Path) -> None:
    found = read(tmp_path, """
        redis_endpoints = "s:26379, [::1]:26380"
        redis_sentinel_master = "main"
        redis_database = 2
        redis_username = "app"
        redis_password_file = "password"
        redis_sentinel_username = "watcher"
        redis_sentinel_password_file = "/run/sentinel"
        redis_tls = true
        redis_tls_ca_file = "ca.pem"
        redis_tls_cert_file = "a.pem"
        redis_tls_key_file = "a.key"
        redis_timeout_ms = 500
    """)
    assert found == RedisSettings(
        endpoints=(Address("s", 26379), Address("::1", 26380)),
        sentinel_master="main",
        database=2,
        redis=Identity("app", tmp_path / "password", "redis_password_file"),
        sentinel=Identity("watcher", Path("/run/sentinel"), "redis_sentinel_password_file"),
        tls=TlsFiles(tmp_path / "ca.pem", tmp_path / "a.pem", tmp_path / "a.key"),
        timeout_ms=500,
        client_name="orchestrator-a",
    )
