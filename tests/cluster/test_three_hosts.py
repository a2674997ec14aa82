"""The page of deploying, followed literally: three machines, TLS, rules and secrets; a leader dies, and one joins."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.faults import network
from tests.cluster.hosts import Hosts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
PATIENCE_S = 120
FOLLOWS = ". ./ops.env\n"
SERVES = "exec orchestrator serve --config $NODE.toml"


def commands(section: str) -> list[str]:
    """What the page has to be typed there, in its order."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Only where the kernel lets us; the machine that checks every change must be such a one."""
    reason = network.obstacle() or ("" if shutil.which("setpriv") else "not installed: setpriv")
    if reason and os.environ.get("CI"):
        pytest.fail(f"machines can't be made: {reason}")
    if reason:
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

    def at(self, node: str, script: str) -> None:
        code, printed = self.hosts.run(node, f"NODE={node}\n{script}")
        assert code == 0, printed

    def carry(self, node: str) -> None:
        shutil.copytree(self.shop / "hosts" / node, self.hosts.disk(node), dirs_exist_ok=True)

    def serve(self, node: str) -> None:
        with (self.hosts.disk(node) / "log").open("a") as log:
            self.nodes[node] = self.hosts.start(node, f"NODE={node}\n{SERVES}", stdout=log, stderr=log)

    def eventually(self, expected: dict[str, set[str]]) -> str:
        """Waits until the nodes have the roles; answers who leads."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            _, printed = self.hosts.run("ops", FOLLOWS + "orchestrator cluster status --json 2>/dev/null || true",
                                        cwd=self.shop)
            roles = {node["name"]: node["role"] for node in json.loads(printed or "{}").get("nodes", [])}
            leaders = [name for name, role in roles.items() if role == "LEADER"]
            found = {"member": {n for n, role in roles.items() if role in ("LEADER", "FOLLOWER")},
                     "gone": {n for n, role in roles.items() if role == "UNREACHABLE"}}
            if found == expected and len(leaders) == 1:
                return leaders[0]
            assert time.monotonic() < deadline, f"waited for {expected}, and there are {roles}"

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
    leader = operator.eventually({"member": {"a", "b", "c"}, "gone": set()})
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

    operator.nodes[leader].kill()
    operator.nodes[leader].wait()
    others = {"a", "b", "c"} - {leader}
    assert operator.eventually({"member": others, "gone": {leader}}) != leader
    operator.greets()

    # Its disk is lost, too.
    shutil.rmtree(hosts.disk(leader) / "data")
    shutil.copy(operator.shop / "admin.token", hosts.disk(leader))
    operator.at(leader, operator.own_machine + commands("When nodes are lost")[0].splitlines()[0])
    operator.serve(leader)
    operator.eventually({"member": {"a", "b", "c"}, "gone": set()})

    making, joining, *_ = commands("Changing the members")
    operator.types(making)
    operator.carry("d")
    shutil.copy(operator.shop / "admin.token", hosts.disk("d"))
    operator.at("d", operator.own_machine + joining.splitlines()[0])
    operator.serve("d")
    operator.eventually({"member": {"a", "b", "c", "d"}, "gone": set()})
    operator.types(FOLLOWS + "orchestrator cluster remove d")
    operator.eventually({"member": {"a", "b", "c"}, "gone": set()})
