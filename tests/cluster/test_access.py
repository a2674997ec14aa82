"""Access rules on real nodes: they hold while leaders die, rules change and tokens expire, and work goes on."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.access import tokens
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, PermissionDenied, Unauthenticated, Worker
from tests.access.issuing import ISSUER, Issuer
from tests.cluster.conftest import StartCluster
from tests.cluster.ledger import Ledger
from tests.cluster.workload import PATIENCE_S, Gate, Load, Number, arithmetic, eventually, within, working

SCRIPT = {
    "name": "script", "version": 1, "schemaVersion": 2, "outputParameters": {"sum": "${add.output.result}"},
    "tasks": [{
        "name": "add", "taskReferenceName": "add", "type": "INLINE",
        "inputParameters": {"evaluatorType": "javascript", "expression": "40 + 2"},
    }],
}
NAMES = ("owner", "starter", "worker", "gatekeeper", "cleaner")
# How long a JSON Web Token is good; far more than a request takes.
TOKEN_S = 3


class Rules:
    """The access file of all nodes, and the tokens that it knows."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "access.toml"
        self.secret = folder / "node.secret"
        self.secret.write_text(secrets.token_hex(32))
        self.issuer = Issuer()
        self.issuer.write(folder / "keys.json")
        self.tokens: dict[str, str] = {}
        self._entries = (
            f'[[jwt]]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "orchestrator"\njwks_file = "keys.json"\n'
            'leeway_seconds = 0\ngroups = { apps = "apps" }\n'
        )
        for name in NAMES:
            self.tokens[name], kept = tokens.make(secrets.token_bytes)
            self._entries += f'[[token]]\nname = "{name}"\nhash = "{kept}"\n'

    @property
    def settings(self) -> dict[str, str]:
        return {"access_file": str(self.file), "node_secret_file": str(self.secret)}

    def write(self, *grants: str) -> None:
        """In one step, as a file should be replaced that is read meanwhile."""
        # Who makes the cluster asks its nodes who leads, and shows nothing.
        own = 'to = ["anonymous"]\nrole = "reader"\nnamespaces = ["none"]'
        owners = 'to = ["owner"]\nrole = "admin"\nnamespaces = ["*"]'
        new = self.file.with_suffix(".new")
        new.write_text(self._entries + "".join(f"[[grant]]\n{grant}\n" for grant in (own, owners, *grants)))
        new.replace(self.file)

    def jwt(self) -> str:
        """One that is good for a few seconds, the same for half of that."""
        half = TOKEN_S / 2
        begun = int(time.time() / half) * half  # noqa: TID251 - the nodes judge it by the real one
        return self.issuer.token(sub="app", groups=["apps"], exp=begun + TOKEN_S)


def starts(to: str, *workflows: str) -> str:
    return f'to = ["{to}"]\nrole = "starter"\nnamespaces = ["default"]\nworkflows = {json.dumps(workflows)}'


def works(to: str, *tasks: str) -> str:
    return f'to = ["{to}"]\nrole = "worker"\nnamespaces = ["default"]\ntasks = {json.dumps(tasks)}'


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(tmp_path)


class Guarded:
    """A cluster with rules, and clients of it."""

    def __init__(self, cluster: LocalCluster, rules: Rules) -> None:
        self.cluster = cluster
        self.rules = rules

    def as_(self, name: str, **options: Any) -> Client:
        return Client(self.cluster.endpoints, token=self.rules.tokens[name], **options)


@pytest.fixture
async def guarded(start_cluster: StartCluster, rules: Rules) -> Guarded:
    rules.write(
        starts("starter", "arithmetic", "script", "gate"),
        starts("group:apps", "arithmetic"),
        works("worker", "*"),
        works("gatekeeper", "guarded"),
        works("cleaner", "sweep*"),
    )
    return Guarded(await start_cluster(**rules.settings), rules)


async def test_leaders_die_and_everybody_still_may_what_they_may(guarded: Guarded, ledger: Ledger) -> None:
    workflow, tasks = arithmetic(ledger)
    cluster = guarded.cluster
    async with guarded.as_("owner") as owner, guarded.as_("starter") as starter, guarded.as_("worker") as worker:
        await owner.register(workflow, SCRIPT)
        async with working(worker, tasks), Load(starter, ledger, workflow) as load:
            for _ in range(2):
                await load.progress(50)
                leader = await cluster.wait_leader()
                await cluster.kill_node(leader)
                await load.progress(30)
                with pytest.raises(PermissionDenied):
                    await starter.terminate("load-0")
                # Nodes execute system work for each other: they know each other by their secret.
                run = await starter.start("script", {})
                assert await within(run.result(PATIENCE_S), "the script's result") == {"sum": 42}
                async with Client(cluster.endpoints) as nobody:
                    with pytest.raises(Unauthenticated):
                        await nobody.start(workflow, Number(1))
                cluster.start_node(leader)
                await cluster.wait_ready()
        await ledger.check(owner)


async def test_tokens_expire_and_streams_go_on_with_new_ones(guarded: Guarded, ledger: Ledger) -> None:
    workflow, tasks = arithmetic(ledger)
    async with guarded.as_("owner") as owner, guarded.as_("worker") as worker:
        await owner.register(workflow)
        async with (
            Client(guarded.cluster.endpoints, token=guarded.rules.jwt) as app,
            working(worker, tasks),
            Load(app, ledger, workflow) as load,
        ):
            until = time.monotonic() + 3 * TOKEN_S
            while time.monotonic() < until:
                await load.progress(20)
        await ledger.check(owner)


async def test_rules_change_while_work_goes_on(guarded: Guarded, ledger: Ledger) -> None:
    gate = Gate(ledger)
    rules = guarded.rules
    async with (
        guarded.as_("owner") as owner,
        guarded.as_("starter") as starter,
        guarded.as_("gatekeeper") as gatekeeper,
        guarded.as_("cleaner") as cleaner,
    ):
        await owner.register(gate.workflow)
        with pytest.raises(PermissionDenied) as denied:
            await within(Worker(cleaner, [gate.task], handle_signals=False).run(), "the refusal of the worker")
        assert denied.value.role == "worker or admin"
        # A file that is wrong changes nothing, on any node.
        right = rules.file.read_text()
        rules.file.write_text("nonsense")
        await eventually(
            lambda: all("rules stay" in node.log_file.read_text() for node in guarded.cluster.nodes.values()),
            "all nodes to have seen the wrong file",
        )
        run = await starter.start(gate.workflow, Number(1), id="held")
        ledger.acknowledge(run.workflow_id, {"x": 1})
        rules.file.write_text(right)
        working_ = asyncio.create_task(Worker(gatekeeper, [gate.task], handle_signals=False).run())
        await within(gate.entered.acquire(), "the step to be executed")
        # Its worker may not any more: it is sent away, and the step is handed to one who may.
        rules.write(starts("starter", "gate"), works("cleaner", "guarded"))
        with pytest.raises(PermissionDenied):
            await within(working_, "the worker to be sent away")

        async def taken_on() -> bool:
            worker = Worker(cleaner, [gate.task], handle_signals=False)
            running = asyncio.create_task(worker.run())
            await asyncio.wait({running, asyncio.ensure_future(worker.connected())}, return_when="FIRST_COMPLETED")
            if running.done():
                return False  # this node has not seen the new rules yet
            others.append((worker, running))
            return True

        others: list[tuple[Worker, asyncio.Task[None]]] = []
        await eventually(taken_on, "the other worker to be taken on")
        await within(gate.entered.acquire(), "the step to be executed by another")
        gate.open.set()
        assert (await within(run.result(PATIENCE_S), "the result")).x == 1
        for worker, running in others:
            await worker.stop()
            await running
