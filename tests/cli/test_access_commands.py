"""`orchestrator access`: tokens that the file takes, and answers to who may do what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.access.principals import Credentials
from orchestrator.access.rules_file import read_rules
from orchestrator.cli.app import cli

GRANTS = """
groups = ["shops"]
[[grant]]
to = ["group:shops"]
role = "starter"
namespaces = ["default"]
workflows = ["order*"]
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["access", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """For `shop`, whose token is beside it."""
    made = json.loads(run("token", "shop", "--json").output)
    (tmp_path / "token").write_text(made["token"])
    path = tmp_path / "access.toml"
    path.write_text(f'[[token]]\nname = "shop"\nhash = "{made["hash"]}"{GRANTS}')
    return path


def test_the_lines_of_a_new_token_can_be_pasted(tmp_path: Path) -> None:
    told = run("token", "shop").output
    token = next(word for word in told.split() if word.startswith("orc_"))
    assert told.count(token) == 1
    path = tmp_path / "access.toml"
    path.write_text(told[told.index("[[token]]") :])
    identity = read_rules(path).authenticate(Credentials(authorization=f"Bearer {token}"), 0)
    assert identity.principal.name == "shop"


@pytest.mark.parametrize("name", ["", "a:b", 'a"b', "a\nb", "a" * 201])
def test_a_name_that_the_file_would_not_take_is_refused(name: str) -> None:
    result = run("token", name)
    assert result.exit_code == 2 and "NAME must be" in result.output


def test_a_right_file_is_shown_with_its_grants(file: Path) -> None:
    result = run("check", str(file))
    assert result.exit_code == 0
    assert "is right" in result.output
    assert "group:shops: grant 1: starter in default, workflows order*" in result.output


def test_a_wrong_file_is_refused_with_what_is_wrong(file: Path) -> None:
    file.write_text(file.read_text().replace("starter", "stater"))
    result = run("check", str(file))
    assert result.exit_code == 2 and "stater" in result.output and "grant[0]" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--method", "StartWorkflow", "--name", "order-eu"), 0, "grant 1"),
        (("--method", "StartWorkflow", "--name", "payroll"), 4, "for the workflow 'payroll'"),
        (("--method", "StartWorkflow", "--name", "order", "-n", "other"), 4, "in the namespace 'other'"),
        (("--method", "Ask/asks/start", "--name", "order"), 0, "grant 1"),
        (("--method", "AddMember"), 4, "admin"),
        (("--method", "GetLeader"), 0, "grant 1"),
    ],
)
def test_what_somebody_may_do_is_told_with_the_reason(
    file: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    result = run("check", str(file), "--as", "shop", *arguments)
    assert result.exit_code == code and why in result.output


def test_all_methods_are_told_without_one(file: Path) -> None:
    answers = {
        one["method"]: one["allowed"] for one in json.loads(run("check", str(file), "--as", "shop", "--json").output)
    }
    assert len(answers) > 80
    assert answers["WorkflowService/GetWorkflow"] and not answers["WorkflowService/SearchWorkflows"]
    assert not answers["OperateWorkflows DELETE"] and not answers["Work/results"]


def test_a_group_may_be_given_as_a_token_would(file: Path) -> None:
    granted = ("--method", "StartWorkflow", "--name", "order")
    assert run("check", str(file), "--as", "corp:alice", *granted).exit_code == 4
    assert run("check", str(file), "--as", "corp:alice", "--group", "shops", *granted).exit_code == 0


def test_questions_that_make_no_sense_are_refused(file: Path) -> None:
    nobody, nothing = ("--method", "GetLeader"), ("--as", "a", "--method", "X")
    for arguments, message in ((nobody, "needs --as"), (nothing, "no method")):
        result = run("check", str(file), *arguments)
        assert result.exit_code == 2 and message in result.output
