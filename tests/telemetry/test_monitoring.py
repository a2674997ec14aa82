"""Rules, alerts, dashboard and runbook: of metrics that there are, and each of them takes effect."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from orchestrator.cli.app import cli
from orchestrator.telemetry.metrics import Metrics
from tests.telemetry.prometheus import Promtool
from tests.telemetry.rules import CASES, promtool_tests

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "monitoring" / "alerts.yaml"
RUNBOOK = DEPLOY / "RUNBOOK.md"
DASHBOARD = DEPLOY / "monitoring" / "dashboard.json"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count"), "counter": ("_total",)}
# What stands in the dashboard for what the reader chooses.
CHOSEN = {"$job": "orchestrator", "$instance": ".*", "$__rate_interval": "5m"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def series_names() -> set[str]:
    """All that can be asked for: of a node, of its process, of the scraper, and what is recorded."""
    names = {"up", "ALERTS", *RECORDED}
    for family in Metrics(node="a", version="0").registry.collect():
        names |= {family.name + suffix for suffix in SUFFIXES.get(family.type, ("",))}
    return names


def names_in(expression: str) -> set[str]:
    """Everything in the expression that is the name of series: what has labels, a range, or the project's prefix."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\{[^}]*\}", "{", bare)
    found = set(re.findall(r"[a-zA-Z_:][\w:]*(?=[{\[])", bare))
    return found | {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if "orchestrator_" in name or name == "up"}


def queries() -> Iterator[tuple[str, str]]:
    """(panel, expression) of the dashboard."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = board()["panels"]
    return found + [inner for panel in found for inner in panel.get("panels", ())]


def test_names_are_found_in_expressions() -> None:
    expression = 'sum by (le, x) (rate(a_total{up="b"}[5m])) / on (c) group_left (d) instance:orchestrator_z:p99 or up'
    assert names_in(expression) == {"a_total", "instance:orchestrator_z:p99", "up"}
    assert not names_in("vector(0) + time()")


# --- rules ------------------------------------------------------------------------------------------------------------


def test_promtool_takes_the_rules_and_the_configuration(promtool: Promtool) -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", DEPLOY / "monitoring" / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_it(promtool: Promtool, tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump(promtool_tests(str(RULES)), sort_keys=False))
    promtool("test", "rules", file)


def test_what_an_alert_says_names_what_it_is_about(promtool: Promtool, tmp_path: Path) -> None:
    [alert] = [rule for rule in ALERTS if rule["alert"] == "OrchestratorFollowerBehind"]
    series = 'orchestrator_follower_lag_entries{job="orchestrator",instance="a",peer="b"}'
    told = alert["annotations"] | {
        "summary": "b is behind", "description": "b has not acknowledged 20000 entries of the leader's log."}
    expected = {"exp_labels": {"severity": "warning", "job": "orchestrator", "instance": "a", "peer": "b"},
                "exp_annotations": told}
    test = {"interval": "1m", "input_series": [{"series": series, "values": "20000+0x20"}],
            "alert_rule_test": [{"eval_time": "15m", "alertname": alert["alert"], "exp_alerts": [expected]}]}
    file = tmp_path / "said.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


def test_each_alert_has_a_case() -> None:
    assert sorted(case.alert for case in CASES) == sorted(rule["alert"] for rule in ALERTS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    names = names_in(rule["expr"])
    assert names and names <= series_names()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    said = alert["annotations"]
    assert said["summary"] and said["description"].endswith(".")
    page, _, anchor = said["runbook_url"].partition("#")
    assert page == "deploy/RUNBOOK.md" and anchor == alert["alert"].lower()


# --- runbook ----------------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    parts = re.split(r"^### (\w+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {name: re.split(r"^## ", text, flags=re.MULTILINE)[0] for name, text in pairs}


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    assert list(sections()) == [rule["alert"] for rule in ALERTS]
    for name, text in sections().items():
        assert [f"**{part}.**" in text for part in ("Means", "Confirm", "Do")] == [True] * 3, name
        assert re.search(r"```sh\n|`orchestrator_\w+`|`\w+_file`", text), name


def commands() -> list[str]:
    text = RUNBOOK.read_text()
    blocks = re.findall(r"^ *```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(orchestrator [^`]+)`", text)
    return sorted({line for line in (*lines, *inline) if line.startswith("orchestrator ")})


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_runbook_are_commands(line: str) -> None:
    """Each is one, with options that it has, and arguments that it takes."""
    command: click.Command = cli
    words = shlex.split(line.replace("$ID", "w").replace("$NODE", "a"))[1:]
    context = click.Context(command, info_name="orchestrator")
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
        context = click.Context(command, parent=context, info_name=command.name)
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    given = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert given <= options | {"--help"}, f"{command.name} has no {given - options}"
    # A command that is named by the way has no arguments there.
    assert not isinstance(command, click.Group) or "--help" in words or "FILE" in (command.help or ""), line


def test_metrics_that_the_runbook_names_are_there() -> None:
    known = series_names() | {re.sub("_(bucket|sum|count)$", "", name) for name in series_names()}
    found = set(re.findall(r"(?:orchestrator|process)_[a-z_]+\w", RUNBOOK.read_text())) - {"orchestrator_cluster"}
    assert len(found) > 20 and found <= known


# --- dashboard --------------------------------------------------------------------------------------------------------


def test_the_dashboard_can_be_loaded() -> None:
    found = board()
    assert found["uid"] and found["title"] and 30 <= found["schemaVersion"] <= 50
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["datasource"] == chosen, panel["title"]
        assert panel["targets"] and all(target["datasource"] == chosen for target in panel["targets"])
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))
    used = {name for _, expression in queries() for name in re.findall(r"\$(\w+)", expression)}
    assert used <= {*variables, "__rate_interval"}


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("panel", "expression"), list(queries()), ids=lambda value: value[:40])
def test_panels_ask_for_what_there_is(panel: str, expression: str) -> None:
    names = names_in(expression)
    assert names and names <= series_names(), panel


def test_promtool_can_read_every_query(promtool: Promtool, tmp_path: Path) -> None:
    recorded = []
    for number, (_, expression) in enumerate(queries()):
        for name, value in CHOSEN.items():
            expression = expression.replace(name, value)
        recorded.append({"record": f"panel:query:{number}", "expr": expression})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    promtool("check", "rules", file)


def test_grafana_is_told_where_prometheus_and_the_dashboard_are() -> None:
    provisioning = DEPLOY / "monitoring" / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "orchestrator.yaml").read_text())["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
