"""Tokens on the command line: by a file or the environment, never where others could read them; nodes' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from orchestrator_client import Client


class Connected(Exception):
    pass


def shown(*arguments: str, **environment: str) -> dict[str, Any]:
    """What a command gives its client."""
    given: dict[str, Any] = {}

    def connect(endpoints: list[str], **options: Any) -> Client:
        given.update(options)
        raise Connected

    session = Session(connect=connect)
    result = CliRunner().invoke(cli, [*arguments, "workflow", "search"], obj=session, env=environment)
    assert isinstance(result.exception, Connected), result.output
    return {name: given[name] for name in ("token", "token_file", "allow_insecure_token") if name in given}


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment)


def test_without_a_token_nothing_is_shown() -> None:
    assert shown() == {}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (("--token-file", "f"), {}, {"token_file": "f"}),
        ((), {"ORCHESTRATOR_TOKEN_FILE": "f"}, {"token_file": "f"}),
        ((), {"ORCHESTRATOR_TOKEN": "t"}, {"token": "t"}),
        (("--token-file", "f"), {"ORCHESTRATOR_TOKEN": "t"}, {"token_file": "f"}),
        (("--token-file", "f"), {"ORCHESTRATOR_TOKEN_FILE": "g"}, {"token_file": "f"}),
        (("--insecure-token",), {"ORCHESTRATOR_TOKEN": "t"}, {"token": "t", "allow_insecure_token": True}),
    ],
)
def test_a_token_comes_from_a_file_or_from_the_environment(
    arguments: tuple[str, ...], environment: dict[str, str], expected: dict[str, Any]
) -> None:
    assert shown(*arguments, **environment) == expected


@pytest.mark.parametrize("command", [("workflow", "search"), ("cluster", "leader"), ("cluster", "status")])
def test_a_token_is_not_sent_where_others_could_read_it(command: tuple[str, ...]) -> None:
    result = run("-e", "192.0.2.1:7400", *command, ORCHESTRATOR_TOKEN="t")
    assert result.exit_code == 2 and "not sent to 192.0.2.1:7400" in result.stderr


def test_the_environment_of_a_caller_is_no_setting_of_a_node(tmp_path: Path) -> None:
    arguments = ("serve", "--check", "--node", "a", "--data-dir", str(tmp_path))
    assert run(*arguments, ORCHESTRATOR_TOKEN="t", ORCHESTRATOR_TOKEN_FILE="f").exit_code == 0


SECRET = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "access.toml can't be read"),
        ({"access.toml": "nonsense"}, "not TOML"),
        ({"access.toml": "", "node.secret": "short"}, "at least 32"),
        ({"access.toml": "", "node.secret": None}, "node.secret can't be read"),
        ({"access.toml": ""}, ""),
    ],
)
def test_a_node_is_not_started_with_files_that_are_wrong(
    tmp_path: Path, files: dict[str, str | None], words: str
) -> None:
    for name, content in ({"node.secret": SECRET} | files).items():
        if content is not None:
            (tmp_path / name).write_text(content)
    result = run(
        "serve", "--check", "--node", "a", "--data-dir", str(tmp_path / "data"),
        "--access-file", str(tmp_path / "access.toml"), "--node-secret-file", str(tmp_path / "node.secret"),
    )
    assert (result.exit_code, words in result.stderr) == (2 if words else 0, True)
