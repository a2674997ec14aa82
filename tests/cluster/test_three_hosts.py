"""The page of deploying, followed literally: three machines, TLS, rules and secrets; a leader dies, and one joins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.verify.machines import namespaces as network
from tests.cluster.hosts import Hosts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
PATIENCE_S = 120
FOLLOWS = ". ./ops.env\n"
STATUS = "orchestrator cluster status --json 2>/dev/null || true"
SERVES = "exec orchestrator serve --config $NODE.toml"


def commands(section: str) -> list[str]:
    """What the page has to be typed there, in its order."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def indented_commands(section: str) -> list[str]:
    """Those of a numbered list."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^   ```sh\n(.*?)^   ```", text, flags=re.DOTALL | re.MULTILINE)


def hosts_obstacle() -> str:
    """Why the kernel does not let us make machines; the one that checks every change must."""
    reason = network.obstacle() or ("" if shutil.which("setpriv") else "not installed: setpriv")
    if reason and os.environ.get("CI"):
        pytest.fail(f"machines can't be made: {reason}")
    return reason


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if reason := hosts_obstacle():
        pytest.skip(reason)
    made = Hosts(tmp_path, ["a", "b", "c", "d", "e", "ops"])
    try:
        made.open()
        yield made
    finally:
        made.close()
        for log in sorted(tmp_path.glob("host-*/log")):
            print(f"--- {log}\n{log.read_text()[-2_000:]}")


class Operator:
    """Who follows the page: at `ops.example`, and now and then at a node's machine."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        disk = hosts.disk("ops")
        (disk / "project").mkdir()
        for folder in ("deploy", "client"):
            (disk / "project" / folder).symlink_to(ROOT / folder)
        self.shop = disk / "shop"

    def types(self, script: str, *, fails: bool = False) -> str:
        code, printed = self.hosts.run("ops", script, cwd=self.shop)
        assert (code != 0) is fails, printed
        return printed

    def at(self, node: str, script: str) -> str:
        code, printed = self.hosts.run(node, f"NODE={node}\n{script}")
        assert code == 0, printed
        return printed

    def calls_at(self, node: str, script: str, endpoints: str = "") -> None:
        """With what the page sets on a node's own machine; `serve` comes after it."""
        shutil.copy(self.shop / "admin.token", self.hosts.disk(node))
        only = f"export ORCHESTRATOR_ENDPOINTS={endpoints}\n" if endpoints else ""
        first, serve = script.strip().splitlines()
        assert serve.split(" # ")[0].split() == SERVES.split()[1:]
        self.at(node, self.own_machine + only + first)
        self.serve(node)

    def stop(self, node: str, how: signal.Signals = signal.SIGTERM) -> None:
        self.nodes[node].send_signal(how)
        self.nodes.pop(node).wait(PATIENCE_S)

    def carry(self, node: str) -> None:
        shutil.copytree(self.shop / "hosts" / node, self.hosts.disk(node), dirs_exist_ok=True)

    def serve(self, node: str) -> None:
        with (self.hosts.disk(node) / "log").open("a") as log:
            self.nodes[node] = self.hosts.start(node, f"NODE={node}\n{SERVES}", stdout=log, stderr=log)

    def eventually(self, members: str, gone: str = "", endpoints: str = "") -> str:
        """Waits until these are members that are there, and those not; answers who leads."""
        only = f"export ORCHESTRATOR_ENDPOINTS={endpoints}\n" if endpoints else ""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            _, printed = self.hosts.run("ops", FOLLOWS + only + STATUS, cwd=self.shop)
            roles = {node["name"]: node["role"] for node in json.loads(printed or "{}").get("nodes", [])}
            leaders = [name for name, role in roles.items() if role == "LEADER"]
            if roles.keys() == {*members, *gone} and len(leaders) == 1 and all(
                    (role == "UNREACHABLE") is (name in gone) and role != "LEARNER" for name, role in roles.items()):
                return leaders[0]
            assert time.monotonic() < deadline, f"waited for {members} without {gone}, and there are {roles}"

    def greets(self) -> None:
        printed = self.types(FOLLOWS + "cd ../project\n" + self.example)
        assert "Hello, world!" in printed

    def sets_up(self) -> None:
        """All steps of the page's first part."""
        blocks = commands("Three nodes")
        making = next(index for index, block in enumerate(blocks) if block.startswith("NODE=a\n"))
        initialise, serve, call, self.example, self.own_machine = blocks[making:]
        assert serve == SERVES.removeprefix("exec ") + "\n"
        code, printed = self.hosts.run("ops", "\n".join(blocks[:making]), cwd=self.hosts.disk("ops") / "project")
        assert code == 0 and printed.count("the configuration is right") == 3, printed
        for node in "abc":
            self.carry(node)
            self.at(node, initialise.removeprefix("NODE=a\n"))
            self.serve(node)
        self.types(call.replace("orchestrator cluster status\n", ""))


@pytest.mark.timeout(600)
def test_the_page_leads_to_three_machines_of_which_any_may_die(hosts: Hosts) -> None:
    operator = Operator(hosts)
    operator.sets_up()
    leader = operator.eventually("abc")
    operator.greets()

    [show, *_] = commands("Who may do what")
    refused, shown = show.splitlines()
    assert "CREDENTIALS_MISSING" in operator.types(f"{FOLLOWS}{refused}", fails=True)
    assert f"{leader} {leader}.example:7400" in operator.types(f"{FOLLOWS}{shown}")
    (operator.shop / "wrong.token").write_text("orc_" + "0" * 43)
    wrong = "orchestrator cluster leader --token-file wrong.token"
    assert "TOKEN_INVALID" in operator.types(FOLLOWS + wrong, fails=True)
    plain = "env -u ORCHESTRATOR_TLS_AUTHORITY -u ORCHESTRATOR_TLS_CERTIFICATE -u ORCHESTRATOR_TLS_KEY "
    assert "TLS" in operator.types(f"{FOLLOWS}{plain}orchestrator cluster leader", fails=True)

    operator.stop(leader, signal.SIGKILL)
    others = "abc".replace(leader, "")
    assert operator.eventually(others, gone=leader) != leader
    operator.greets()

    # Its disk is lost, too.
    shutil.rmtree(hosts.disk(leader) / "data")
    operator.calls_at(leader, commands("When nodes are lost")[0])
    operator.eventually("abc")

    making, joining, *_ = commands("Changing the members")
    operator.types(making)
    operator.carry("d")
    operator.calls_at("d", joining)
    operator.eventually("abcd")
    operator.types(FOLLOWS + "orchestrator cluster remove d")
    operator.eventually("abc")


@pytest.mark.timeout(600)
def test_the_page_leads_out_of_a_lost_majority_and_to_a_second_cluster(hosts: Hosts) -> None:
    operator = Operator(hosts)
    operator.sets_up()
    operator.eventually("abc")
    operator.greets()
    operator.types(FOLLOWS + "printf %s word | orchestrator secret put BANK")

    backing_up, restoring, joining, *_ = commands("Backup and restore")
    assert "orders.backup is whole" in operator.types(FOLLOWS + backing_up)
    making = commands("Changing the members")[0]
    for node, number in (("d", 4), ("e", 5)):
        operator.types(re.sub(r"\bd\b", node, making).replace("10.0.0.4", f"10.0.0.{number}"))
        operator.carry(node)
    shutil.copy(operator.shop / "orders.backup", hosts.disk("d"))
    operator.calls_at("d", restoring)
    second = "d.example:7400"
    assert operator.eventually("d", endpoints=second) == "d"
    operator.calls_at("e", joining, endpoints=second)
    operator.eventually("de", endpoints=second)
    listed = operator.types(f"{FOLLOWS}orchestrator workflow list --endpoint {second}\n"
                            f"orchestrator secret list --endpoint {second} --json")
    assert "COMPLETED" in listed and json.loads(listed[listed.index("["):])[0]["readable"]

    looking, recovering, rejoining = (re.sub("^   ", "", each, flags=re.M) for each in
                                      indented_commands("When nodes are lost"))
    for node in "bc":
        operator.stop(node, signal.SIGKILL)
        shutil.rmtree(hosts.disk(node) / "data")
    operator.stop("a")
    assert "--give-up b --give-up c" in operator.at("a", looking)
    operator.at("a", f"{recovering.split(' #')[0]} < cluster.id")
    operator.serve("a")
    assert operator.eventually("a") == "a"
    for node, members in (("b", "ab"), ("c", "abc")):
        operator.calls_at(node, rejoining)
        operator.eventually(members)
    operator.greets()
