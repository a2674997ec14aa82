"""A step is all or nothing: what is refused changes nothing, and what breaks changes nothing and says where."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import (
    behaviour,
    blob_commands,
    choices,
    commands,
    definition_commands,
    leases,
    machine,
    messages,
    outbox_commands,
    schema_commands,
    secret_commands,
    step,
    stream_commands,
    walk,
)
from orchestrator.engine.choices import IfExists, TerminateCompensation
from orchestrator.engine.command import Command
from orchestrator.engine.commands import RequestIdentity, StartWorkflow
from orchestrator.engine.model import SessionKind, Table, TaskStatus
from orchestrator.engine.results import Code, Done, Rejected
from orchestrator.engine.state import State
from tests.engine.driver import START_MS, Driver, simple, workflow
from tests.engine.scenario import play
from tests.engine.test_core import ulid

ONE = ("default", "w")
SCHEDULE = {
    "name": "hourly",
    "cronExpression": "0 0 * * * *",
    "overlapPolicy": "SKIP",
    "startWorkflowRequest": {"name": "saga"},
}
HANDLER = {
    "name": "plain",
    "event": "e",
    "active": True,
    "actions": [{"action": "terminate_workflow", "terminate_workflow": {"workflowId": "gone"}}],
}
EVERY_COMMAND: dict[type, Any] = {
    commands.RegisterWorkflows: commands.RegisterWorkflows("default", (b'{"name":"n","tasks":[]}',), True),
    commands.RegisterTasks: commands.RegisterTasks("default", (b'{"name":"n"}',)),
    commands.StartWorkflow: StartWorkflow("default", "saga", 0, "new", IfExists.FAIL, b"{}"),
    commands.SignalWorkflow: commands.SignalWorkflow(*ONE, "go", b"{}"),
    commands.PauseWorkflow: commands.PauseWorkflow(*ONE),
    commands.ResumeWorkflow: commands.ResumeWorkflow(*ONE),
    commands.TerminateWorkflow: commands.TerminateWorkflow(*ONE, "stop", TerminateCompensation.RUN),
    commands.RetryWorkflow: commands.RetryWorkflow(*ONE),
    commands.RetryCompensation: commands.RetryCompensation(*ONE),
    commands.SkipCompensation: commands.SkipCompensation(*ONE),
    commands.AbandonCompensation: commands.AbandonCompensation(*ONE, "enough"),
    commands.OpenClientSession: commands.OpenClientSession("default"),
    commands.OpenSession: commands.OpenSession("t", SessionKind.STREAM, "default", "", "w", ("b",), 1, 10_000),
    commands.UpdateSession: commands.UpdateSession("s", ("a", "b"), 3),
    commands.CloseSession: commands.CloseSession("s"),
    commands.ExpireSession: commands.ExpireSession("s"),
    commands.PollTasks: commands.PollTasks("p", "default", "", "w", ("b",), 1),
    commands.NotePollers: commands.NotePollers("default", "eu", ("b",)),
    commands.CompleteTask: None,
    commands.RecordHeartbeat: None,
    commands.ReleaseTask: commands.ReleaseTask("s", 1),
    commands.ExpireDeadline: commands.ExpireDeadline(choices.DeadlineKind.RESPONSE, 1),
    commands.PutSchedule: commands.PutSchedule("default", msgspec.json.encode({**SCHEDULE, "paused": True})),
    commands.DeleteSchedule: commands.DeleteSchedule("default", "hourly"),
    commands.PauseSchedule: commands.PauseSchedule("default", "hourly", "why"),
    commands.ResumeSchedule: commands.ResumeSchedule("default", "held"),
    commands.PauseScheduling: commands.PauseScheduling("why"),
    commands.ResumeScheduling: commands.ResumeScheduling(),
    commands.RunSchedule: commands.RunSchedule("default", "hourly"),
    commands.ArmSchedule: commands.ArmSchedule("default", "new", 1, START_MS, ((START_MS + 1, 0),)),
    commands.PutEventHandler: commands.PutEventHandler(
        "default", msgspec.json.encode({**HANDLER, "event": "redis:other"})
    ),
    commands.DeleteEventHandler: commands.DeleteEventHandler("default", "reads"),
    commands.PublishEvent: commands.PublishEvent("default", "e", "m2", b"{}"),
    commands.DecideEvent: commands.DecideEvent(1, "asks", 1, True),
    blob_commands.HoldBlobs: blob_commands.HoldBlobs((blob_commands.HeldBlob("shared", "0" * 64, 5),)),
    blob_commands.DeleteBlobs: blob_commands.DeleteBlobs((1,)),
    blob_commands.BlobsDeleted: blob_commands.BlobsDeleted((1,)),
    outbox_commands.AcknowledgeEvents: outbox_commands.AcknowledgeEvents((1,)),
    stream_commands.ReceiveEvents: stream_commands.ReceiveEvents(
        "default",
        "redis:in",
        (
            stream_commands.StreamEntry(f"{START_MS}-1", "e1", b"{}"),
            stream_commands.StreamEntry(f"{START_MS}-2", "e2", b"{}", invalid="why"),
        ),
    ),
    commands.FireTimers: commands.FireTimers(),
    commands.Continue: commands.Continue(),
    commands.Checkpoint: commands.Checkpoint(),
    commands.RaiseBehaviour: commands.RaiseBehaviour(behaviour.HIGHEST + 1),
    commands.RegisterService: commands.RegisterService("default", b'{"name":"s","endpoints":["http://a"]}'),
    commands.DeleteService: commands.DeleteService("default", "s"),
    schema_commands.RegisterSchemas: schema_commands.RegisterSchemas(
        "default", (b'{"name":"s","data":{"type":"object"}}',), False
    ),
    schema_commands.DeleteSchema: schema_commands.DeleteSchema("default", "s", 0),
    secret_commands.PutSecret: secret_commands.PutSecret("default", "NEW", 1, "k", b"sealed"),
    secret_commands.DeleteSecret: secret_commands.DeleteSecret("default", "KEY"),
    secret_commands.ResealSecret: secret_commands.ResealSecret("default", "KEY", 1, "k2", b"sealed anew"),
    definition_commands.DeleteWorkflowDefinition: definition_commands.DeleteWorkflowDefinition("default", "w", 0),
    definition_commands.DeleteTaskDefinition: definition_commands.DeleteTaskDefinition("default", "t"),
    commands.DeleteWorkflow: commands.DeleteWorkflow(*ONE, choices.DeleteEffects.KEEP),
    commands.SetRetention: commands.SetRetention(1, 2, 3),
    commands.AddTaskLogs: None,
    commands.UpdateVariables: commands.UpdateVariables(*ONE, b'{"v":1}'),
    commands.UpdateTask: commands.UpdateTask(*ONE, "a", TaskStatus.COMPLETED, b'{"n":1}'),
    commands.RestartWorkflow: commands.RestartWorkflow(*ONE),
    commands.RerunWorkflow: commands.RerunWorkflow(*ONE),
    commands.MigrateWorkflow: commands.MigrateWorkflow(*ONE),
    commands.PushMessage: commands.PushMessage(*ONE, b'{"m":1}'),
    commands.SkipTask: commands.SkipTask(*ONE, "c"),
    commands.PurgeExecutions: commands.PurgeExecutions((commands.PurgeItem(*ONE, 1, choices.PurgeRule.AGE),)),
}


@pytest.fixture
def driver() -> Driver:
    """a is leased, the nobody task waits for a worker."""
    driver = Driver(check=False, level=behaviour.HIGHEST)
    fork = {
        "name": "f",
        "taskReferenceName": "f",
        "type": "FORK_JOIN",
        "forkTasks": [[simple("a", "undo_a"), simple("c")], [simple("nobody")]],
    }
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["c", "nobody"]}
    listener = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "redis:out"}
    driver.register(workflow("saga", fork, join, **listener))
    driver.worker("s", "a", "undo_a", slots=2)
    driver.start("saga")
    driver.ok(commands.PauseWorkflow(*ONE))
    driver.ok(commands.ResumeWorkflow(*ONE))
    for more in ({}, {"name": "held", "paused": True}, {"name": "new"}):
        driver.ok(commands.PutSchedule("default", msgspec.json.encode({**SCHEDULE, **more})))
    hour = 3_600_000
    driver.ok(commands.ArmSchedule("default", "hourly", 1, START_MS, ((START_MS + hour, 0), (START_MS + 2 * hour, 0))))
    for more in ({}, {"name": "asks", "condition": "$.n > 1"}, {"name": "reads", "event": "redis:in"}):
        driver.ok(commands.PutEventHandler("default", msgspec.json.encode({**HANDLER, **more})))
    driver.ok(commands.PublishEvent("default", "e", "m1", b"{}"))
    driver.ok(secret_commands.PutSecret("default", "KEY", 1, "k1", b"sealed"))
    return driver


def command_of(driver: Driver, kind: type) -> Any:
    attempt = driver.latest("a")
    if kind is commands.CompleteTask:
        return commands.CompleteTask(
            *ONE, attempt.task_id, attempt.fencing_token, TaskStatus.COMPLETED, b'{"n":1}', "", ""
        )
    if kind is commands.AddTaskLogs:
        return commands.AddTaskLogs(*ONE, attempt.task_id, attempt.fencing_token, ((1, "a line"),))
    if kind is commands.RecordHeartbeat:
        return commands.RecordHeartbeat(*ONE, attempt.task_id, attempt.fencing_token, b"{}")
    return EVERY_COMMAND[kind]


def test_every_command_and_message_has_a_handler() -> None:
    assert set(machine.COMMANDS) == set(Command.__subclasses__()) == set(EVERY_COMMAND)
    assert set(machine.MESSAGES) == set(messages.Message.__subclasses__())


def test_every_result_and_command_is_in_its_union() -> None:
    from orchestrator.engine import effects, results

    for base, union in (
        (Command, commands.AnyCommand),
        (messages.Message, messages.AnyMessage),
        (results.Result, results.AnyResult),
        (effects.Effect, effects.AnyEffect),
    ):
        assert set(base.__subclasses__()) == set(union.__args__)


@pytest.mark.parametrize("kind", list(machine.COMMANDS))
def test_a_handler_that_breaks_changes_nothing(
    driver: Driver, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = command_of(driver, kind)
    handler = machine.COMMANDS[kind]

    def broken(one: step.Step, given: Any) -> Any:
        handler(one, given)
        raise ValueError("words that may differ between nodes")

    before = driver.rows()
    monkeypatch.setitem(machine.COMMANDS, kind, broken)
    result = driver.do(command)
    assert isinstance(result, Rejected)
    if result.code is Code.INTERNAL:
        assert dict(result.metadata)["type"] == "ValueError"
        assert "words" not in repr(result)
    assert driver.rows() == before
    assert driver.effects == []


@pytest.mark.parametrize("kind", list(machine.COMMANDS))
def test_a_break_at_any_write_changes_nothing(driver: Driver, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    write = step.Step.write
    for allowed in range(40):
        left = [allowed]

        def failing(one: step.Step, table: Table, key: Any, row: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyError("broken")
            left[0] -= 1
            write(one, table, key, row)

        command = command_of(driver, kind)
        other = driver.restart()
        before = other.rows()
        with monkeypatch.context() as patched:
            patched.setattr(step.Step, "write", failing)
            other.index += 1
            other.machine.begin_entry(other.index, 1, other.now_ms)
            result = other.machine.apply(command).result
        if not isinstance(result, Rejected) or result.code is not Code.INTERNAL:
            return
        assert other.rows() == before
        # The indexes, too: what is done next comes out as if nothing had been tried.
        twin = driver.restart()
        assert other.do(command) == twin.do(command) or kind in (commands.OpenClientSession, commands.RunSchedule)
        assert {mark[0]: 1 for mark in other.rows()} == {mark[0]: 1 for mark in twin.rows()}
    raise AssertionError("more writes than were tried")


def complete_a_in_vain(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """c, which follows a, is made and queued; then the step breaks."""
    in_vain(driver, command_of(driver, commands.CompleteTask), monkeypatch)


def in_vain(driver: Driver, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is done; then the step breaks."""
    match = leases.match

    def broken(one: step.Step) -> None:
        match(one)
        raise KeyError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(leases, "match", broken)
        result = driver.do(command)
    assert isinstance(result, Rejected) and result.code is Code.INTERNAL


@pytest.mark.patches_engine
def test_what_a_step_that_breaks_had_queued_is_not_mistaken_for_what_is_queued_next(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete_a_in_vain(driver, monkeypatch)
    driver.register(workflow("other", simple("x")))
    driver.start("other", "w2")
    # The number that c had is now that of x.
    driver.worker("t", "c", slots=9)
    assert list(driver.state.leases) == [(1,)]
    driver.worker("u", "x")
    assert driver.latest("x", "w2").worker_id == "worker-u"


@pytest.mark.patches_engine
def test_what_a_step_that_breaks_had_made_is_unknown_to_operators(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete_a_in_vain(driver, monkeypatch)
    driver.ok(commands.TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP))
    twin = driver.restart()
    assert driver.do(commands.RetryWorkflow(*ONE)) == twin.do(commands.RetryWorkflow(*ONE)) == Done()
    assert driver.rows() == twin.rows()


FORKED: dict[str, Any] = {
    "name": "f", "taskReferenceName": "f", "type": "FORK_JOIN_DYNAMIC",
    "inputParameters": {"tasks": "${a.output.tasks}", "inputs": {}},
    "dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs",
}
SPREAD = {**FORKED, "inputParameters": {"forkTaskName": "b", "forkTaskInputs": "${a.output.tasks}"}}
LOOPED: dict[str, Any] = {
    "name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "inputParameters": {"_items": "${a.output.tasks}"},
    "items": "${a.output.tasks}", "loopOver": [simple("b", inputParameters={"i": "${l.output.loopItem}"})],
}


@pytest.mark.patches_engine
@pytest.mark.parametrize("after_a", [FORKED, SPREAD, LOOPED], ids=["forked", "spread", "looped"])
def test_what_a_step_that_breaks_had_derived_is_forgotten(
    after_a: dict[str, Any], driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers that it had given come again, for something else."""
    join = [] if after_a is LOOPED else [{"name": "j", "taskReferenceName": "j", "type": "JOIN"}]
    driver.register(workflow("after", simple("a"), after_a, *join))
    driver.worker("t", "a", "b", slots=9)
    driver.start("after", "w2")

    def completed(*references: str) -> commands.CompleteTask:
        a = driver.latest("a", "w2")
        output = msgspec.json.encode({"tasks": [{"name": "b", "taskReferenceName": one} for one in references]})
        return commands.CompleteTask(
            "default", "w2", a.task_id, a.fencing_token, TaskStatus.COMPLETED, output, "", ""
        )

    in_vain(driver, completed("x", "y"), monkeypatch)
    twin = driver.restart()
    result = driver.do(completed("u", "v", "z"))
    assert not isinstance(result, Rejected)
    assert twin.do(completed("u", "v", "z")) == result
    assert driver.rows() == twin.rows()


@pytest.mark.parametrize("kind", list(machine.MESSAGES))
def test_a_message_that_breaks_is_dropped_and_changes_nothing_else(
    driver: Driver, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"namespace": "default", "workflow_id": "w", "task_sequence": 1, "token": 1, "timer": 1}
    fields.update({"ended_ms": 1, "rule": 1, "observed": 0})
    fields.update({"kind": 1, "number": 1, "name": "n", "version": 1, "input": b"{}", "task_id": "", "reference": "a"})
    fields.update({"status": TaskStatus.FAILED, "output": b"{}", "reason": "r", "variables": b"{}", "append": False})
    fields.update({"origin": messages.Origin(), "undo": True, "child": "w", "parent": "w"})
    fields.update({"parent_sequence": 1, "around": (), "payload": b"{}"})
    fields.update({"event": "e", "key": "k", "kept": 1, "since_ms": 1})
    known = {field.name: fields[field.name] for field in msgspec.structs.fields(kind) if field.required}
    before = driver.rows()

    def broken(one: step.Step, message: Any) -> Any:
        one.open("default", "w")
        one.change(reason="half done")
        one.write_header()
        raise LookupError

    monkeypatch.setitem(machine.MESSAGES, kind, broken)
    monkeypatch.setitem(machine.COMMANDS, commands.Continue, lambda one, _: one.send(kind(**known)) or machine.Done())
    driver.do(commands.Continue())
    assert driver.machine.next_message() is None
    after = driver.rows()
    changed = [mark for mark in after if before.get(mark) != after[mark]]
    assert changed in ([(Table.META, ())], [])


@pytest.mark.parametrize("error", [MemoryError, RecursionError, OSError])
def test_a_process_that_is_not_well_stops(
    driver: Driver, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(one: step.Step, given: Any) -> Any:
        raise error

    monkeypatch.setitem(machine.COMMANDS, commands.Continue, broken)
    with pytest.raises(error):
        driver.do(commands.Continue())


@pytest.mark.patches_engine
def test_an_internal_rejection_is_not_remembered(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = RequestIdentity(request_id=ulid(driver.now_ms))
    command = EVERY_COMMAND[commands.StartWorkflow]
    with monkeypatch.context() as patched:
        patched.setattr(walk, "drain", lambda one: 1 // 0)
        assert driver.do(command, identity).code is Code.INTERNAL
    assert not isinstance(driver.do(command, identity), Rejected)


def test_type_and_site_of_an_error_enter_the_chain_hash(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    chains = []
    for error in (ValueError, KeyError):
        other = driver.restart()

        def broken(one: step.Step, given: Any, error: type[Exception] = error) -> Any:
            raise error

        with monkeypatch.context() as patched:
            patched.setitem(machine.COMMANDS, commands.Continue, broken)
            other.do(commands.Continue())
        chains.append(other.machine.chain)
    assert chains[0] != chains[1]


def test_rejections_of_whole_runs_leave_every_byte_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random runs; wherever something is refused, all rows are compared."""
    seen = [0]
    plain = machine.Machine.apply

    def checked(self: machine.Machine, command: Any, identity: Any = None) -> Any:
        rows = {mark: self.state.read(*mark) for mark in all_rows(self.state)}
        outcome = plain(self, command, identity)
        if isinstance(outcome.result, Rejected):
            seen[0] += 1
            assert rows == {mark: self.state.read(*mark) for mark in all_rows(self.state)}, outcome
            assert outcome.effects == []
        return outcome

    monkeypatch.setattr(machine.Machine, "apply", checked)
    for seed in range(12):
        play(seed, 25)
    assert seen[0] > 20


def all_rows(state: State) -> list[tuple[Table, Any]]:
    marks: list[tuple[Table, Any]] = [(Table.META, ())]
    marks += [(table, key) for table, rows in state.resident.items() for key in rows]
    for key in state.hot_keys():
        hot = state.execution(key)
        assert hot is not None
        marks.append((Table.EXECUTION, key))
        marks += [(Table.TASK, (*key, number)) for number in hot.tasks]
        marks += [(Table.RECORD, (*key, number)) for number in hot.records]
        marks += [(Table.SIGNAL, (*key, number)) for number in hot.signals]
        marks += [(Table.PAYLOAD, (*key, number)) for number in hot.payloads]
        marks += [(Table.TASK_LOG, (*key, number)) for number in hot.logs]
        marks += [(Table.EXPANSION, (*key, number)) for number in hot.expansions]
    return marks
