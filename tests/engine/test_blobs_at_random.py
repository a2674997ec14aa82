"""Whatever happens in whatever order: what an execution refers to is in the store, and what nothing uses goes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from orchestrator.engine import behaviour, commands, limits
from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs, HeldBlob, HoldBlobs
from orchestrator.engine.blobs import BlobRef, marker_of, ref_to, references_in
from orchestrator.engine.choices import DeleteEffects, IfExists, TerminateCompensation
from orchestrator.engine.encoding import encode_struct
from orchestrator.engine.model import EXECUTION_TABLES, Table, TaskStatus
from orchestrator.engine.results import BlobsHeld
from tests.engine.driver import Driver, simple, workflow

STEPS = 120
CONTENTS = [b'"%d"' % number for number in range(20)]
LOOP = {
    "name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "inputParameters": {"keepLastN": 1, "maxIterations": 2},
    "items": "${workflow.input.list}", "loopOver": [simple("in", inputParameters={"x": "${l.output.loopItem}"})],
}
CALL = {
    "name": "c", "taskReferenceName": "c", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"},
    "inputParameters": {"big": "${a.output.big}"},
}


class World:
    """A state and a store, and who puts into it as the door does: held, put, and said."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.driver = Driver(level=behaviour.STREAMS)
        self.driver.register(
            workflow("child", simple("b", inputParameters={"x": "${workflow.input.big}"})),
            workflow("parent", simple("a", "undo_a", inputParameters={"all": "${workflow.input}"}), CALL, LOOP,
                     outputParameters={"out": "${a.output.big}"}),
        )
        self.driver.worker("s", "a", "b", "in", "undo_a", slots=100)
        self.store: set[str] = set()
        self.started = 0

    def payload(self) -> bytes:
        """With some values in the store, unless one of them is just being deleted."""
        texts = [b'{"n":1}', b'{"n":2}']
        for content in self.chance.sample(CONTENTS, self.chance.randrange(3)):
            ref = ref_to("shared", content)
            if self.driver.do(HoldBlobs((HeldBlob(ref.store, ref.sha256, ref.size),))) == BlobsHeld():
                self.store.add(ref.sha256)
                texts.append(marker_of(ref))
        one = self.chance.choice(texts)
        return b'{"big":%b,"list":[%b]}' % (one, b",".join(texts))

    def names(self) -> list[str]:
        return [workflow_id for (_, workflow_id), _ in self.driver.state.hot_executions()]

    def act(self) -> None:
        getattr(self, self.chance.choice([name for name in dir(self) if name.startswith("do_")]))()

    def do_start(self) -> None:
        self.started += 1
        name = f"w{self.started}"
        command = commands.StartWorkflow("default", "parent", 0, name, IfExists.FAIL, self.payload())
        if self.chance.random() < 0.2:
            # What was put and said long ago.
            self.driver.wait(self.chance.randrange(2 * limits.BLOB_UNUSED_MS))
            self.do_collect()
        self.driver.do(command)

    def do_complete(self) -> None:
        held = [lease for _, lease in sorted(self.driver.state.leases.items()) if lease.started]
        for lease in self.chance.sample(held, min(3, len(held))):
            status = self.chance.choice([TaskStatus.COMPLETED] * 4 + [TaskStatus.FAILED_WITH_TERMINAL_ERROR])
            self.driver.do(commands.CompleteTask(
                "default", lease.workflow_id, lease.task_id, lease.token, status, self.payload(), "", ""))

    do_complete_more = do_complete

    def do_operate(self) -> None:
        if not self.names():
            return
        one: Any = ("default", self.chance.choice(self.names()))
        self.driver.do(self.chance.choice([
            commands.TerminateWorkflow(*one, "", TerminateCompensation.SKIP),
            commands.TerminateWorkflow(*one, "", TerminateCompensation.RUN),
            commands.RetryWorkflow(*one),
            commands.RestartWorkflow(*one, effects=DeleteEffects.KEEP),
            commands.RerunWorkflow(*one, workflow_input=self.payload(), effects=DeleteEffects.COMPENSATE_FIRST),
            commands.UpdateVariables(*one, self.payload()),
            commands.SignalWorkflow(*one, "s", self.payload()),
        ]))

    def do_delete(self) -> None:
        self.driver.now_ms += 1
        for name in self.names():
            if self.chance.random() < 0.5:
                self.driver.do(commands.DeleteWorkflow("default", name, DeleteEffects.KEEP))

    def do_wait(self) -> None:
        self.driver.wait(self.chance.randrange(2 * limits.BLOB_UNUSED_MS))

    def do_collect(self) -> None:
        state = self.driver.state
        # Whoever collects may be wrong about what may go.
        numbers = [number for (number,) in state.resident[Table.BLOB]]
        self.driver.ok(DeleteBlobs(tuple(numbers)))
        doomed = [state.resident[Table.BLOB][number,] for number in state.blobs.doomed_numbers()]
        if doomed and self.chance.random() < 0.7:
            self.store -= {row.sha256 for row in doomed}
            self.driver.ok(BlobsDeleted(tuple(row.number for row in doomed)))

    def referred_to(self) -> set[BlobRef]:
        rows = [row for (table, _), row in self.driver.rows().items() if table in EXECUTION_TABLES]
        return {ref for row in rows for ref in references_in(encode_struct(row))}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_nothing_is_left(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.act()  # invariants are checked after each step
        assert {ref.sha256 for ref in world.referred_to()} <= world.store
    # A replica that reads the rows comes to the same.
    other = world.driver.restart()
    assert other.rows() == world.driver.rows()
    for name in world.names():
        world.driver.do(commands.TerminateWorkflow("default", name, "", TerminateCompensation.SKIP))
    world.driver.wait(1)
    for name in world.names():
        world.driver.do(commands.DeleteWorkflow("default", name, DeleteEffects.KEEP))
    for _ in range(20):
        world.driver.wait(limits.BLOB_UNUSED_MS)
        world.do_collect()
    left = world.driver.state.resident[Table.BLOB].values()
    # Of executions that could not be deleted, which keep all that they have ever referred to.
    assert all(row.uses for row in left)
    assert {ref.sha256 for ref in world.referred_to()} <= {row.sha256 for row in left} == world.store
