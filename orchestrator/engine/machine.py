"""The state machine: the table of all commands and messages, and `apply`, which never raises.

For each log entry: `begin_entry`; `apply` for each command; `apply_message` while there are messages, up to a bound;
`end_entry`. The caller makes hot what `executions_needed` and `next_message` name, if the database has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from orchestrator.engine import (
    blob_commands,
    chain,
    commands,
    dedup,
    definition_commands,
    limits,
    log_commands,
    messages,
    outbox_commands,
    schema_commands,
    secret_commands,
    stream_commands,
)
from orchestrator.engine.command import execution_of
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.handlers import (
    again,
    blobs,
    children,
    compensation,
    control,
    definitions,
    eventing,
    leasing,
    migrating,
    purging,
    reaching,
    results,
    scheduling,
    schemas,
    secret_keeping,
    services,
    sessions,
    starting,
    streaming,
    system,
    timing,
    updates,
)
from orchestrator.engine.identifiers import Identifiers
from orchestrator.engine.messages import Message
from orchestrator.engine.model import ExecutionKey
from orchestrator.engine.results import AnyResult, Checkpointed, Done
from orchestrator.engine.runner import StepRun, run
from orchestrator.engine.state import State
from orchestrator.engine.step import Step, advance_time

T = TypeVar("T")

COMMANDS: Final[dict[type, Callable[[Any, Any], AnyResult]]] = {
    commands.RegisterWorkflows: definitions.register_workflows,
    commands.RegisterTasks: definitions.register_tasks,
    commands.StartWorkflow: starting.start_workflow,
    commands.SignalWorkflow: control.signal_workflow,
    commands.PauseWorkflow: control.pause_workflow,
    commands.ResumeWorkflow: control.resume_workflow,
    commands.TerminateWorkflow: control.terminate_workflow,
    commands.RetryWorkflow: control.retry_workflow,
    commands.RestartWorkflow: again.restart_workflow,
    commands.RerunWorkflow: again.rerun_workflow,
    commands.SkipTask: again.skip_task,
    commands.PushMessage: control.push_message,
    commands.MigrateWorkflow: migrating.migrate_workflow,
    commands.RetryCompensation: compensation.retry_compensation,
    commands.SkipCompensation: compensation.skip_compensation,
    commands.AbandonCompensation: compensation.abandon_compensation,
    commands.OpenClientSession: dedup.open_client_session,
    commands.OpenSession: sessions.open_session,
    commands.UpdateSession: sessions.update_session,
    commands.CloseSession: sessions.close_session,
    commands.ExpireSession: sessions.expire_session,
    commands.PollTasks: sessions.poll_tasks,
    commands.NotePollers: sessions.note_pollers,
    commands.CompleteTask: results.complete_task,
    commands.RecordHeartbeat: results.record_heartbeat,
    commands.ReleaseTask: results.release_task,
    commands.ExpireDeadline: timing.expire_deadline,
    commands.PutSchedule: scheduling.put_schedule,
    commands.DeleteSchedule: scheduling.delete_schedule,
    commands.PauseSchedule: scheduling.pause_schedule,
    commands.ResumeSchedule: scheduling.resume_schedule,
    commands.PauseScheduling: scheduling.pause_scheduling,
    commands.ResumeScheduling: scheduling.resume_scheduling,
    commands.RunSchedule: scheduling.run_schedule,
    commands.ArmSchedule: scheduling.arm_schedule,
    commands.PutEventHandler: eventing.put_event_handler,
    commands.DeleteEventHandler: eventing.delete_event_handler,
    commands.PublishEvent: eventing.publish_event,
    commands.DecideEvent: eventing.decide_event,
    outbox_commands.AcknowledgeEvents: eventing.acknowledge_events,
    stream_commands.ReceiveEvents: streaming.receive_events,
    commands.FireTimers: timing.fire_timers,
    commands.Continue: system.go_on,
    commands.Checkpoint: system.checkpoint,
    commands.RaiseBehaviour: system.raise_behaviour,
    commands.RegisterService: services.register_service,
    commands.DeleteService: services.delete_service,
    schema_commands.RegisterSchemas: schemas.register_schemas,
    schema_commands.DeleteSchema: schemas.delete_schema,
    secret_commands.PutSecret: secret_keeping.put_secret,
    secret_commands.DeleteSecret: secret_keeping.delete_secret,
    secret_commands.ResealSecret: secret_keeping.reseal_secret,
    definition_commands.DeleteWorkflowDefinition: definitions.delete_workflow_definition,
    definition_commands.DeleteTaskDefinition: definitions.delete_task_definition,
    commands.DeleteWorkflow: purging.delete_workflow,
    commands.SetRetention: purging.set_retention,
    commands.PurgeExecutions: purging.purge_executions,
    log_commands.AddTaskLogs: updates.add_task_logs,
    commands.UpdateVariables: updates.update_variables,
    commands.UpdateTask: updates.update_task,
    blob_commands.HoldBlobs: blobs.hold_blobs,
    blob_commands.DeleteBlobs: blobs.delete_blobs,
    blob_commands.BlobsDeleted: blobs.blobs_deleted,
}

MESSAGES: Final[dict[type, Callable[[Any, Any], AnyResult]]] = {
    messages.TaskLeased: leasing.task_leased,
    messages.WorkerLost: leasing.worker_lost,
    messages.ContinueExecution: leasing.continue_execution,
    messages.LetIn: leasing.let_in,
    messages.TimerFired: timing.timer_fired,
    messages.DeadlinePassed: timing.deadline_passed,
    messages.StartExecution: starting.start_execution,
    messages.CancelChild: children.cancel_child,
    messages.ChildEnded: children.child_ended,
    messages.UndoChild: children.undo_child,
    messages.StartAnswered: children.start_answered,
    messages.JoinExecution: children.join_execution,
    messages.RemoveChild: children.remove_child,
    messages.ChildReopened: again.child_reopened,
    messages.GoOnAfterEnd: again.go_on_after_end,
    messages.ClearExecution: again.clear_execution,
    messages.RetryChild: control.retry_child,
    messages.RemoveRows: purging.remove_rows,
    messages.PurgeExecution: purging.purge_execution,
    messages.FinishTask: reaching.finish_task,
    messages.TerminateExecution: reaching.terminate_execution,
    messages.UpdateVariables: reaching.update_variables,
    messages.SignalExecution: reaching.signal_execution,
    messages.GiveEvent: reaching.give_event,
    messages.HandleEvent: eventing.handle_event,
    messages.ScheduleDue: scheduling.schedule_due,
}


class Outcome:
    """What came of a command or a message."""

    __slots__ = ("effects", "result")

    def __init__(self, result: AnyResult, effects: list[AnyEffect]) -> None:
        self.result = result
        self.effects = effects


class Machine:
    """Applies log entries to the state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.handlers = COMMANDS
        self.chain = chain.GENESIS  # set anew by whoever restores the state
        self.index = 0
        self.term = 0
        self._ids = Identifiers(state.cluster_id, state.recovery_epoch)
        self._entry = chain.EntryHash()
        self._requests = 0  # that came with an identity, in this entry
        self._changed_by_messages = 0  # rows, in this entry

    def begin_entry(self, index: int, term: int, time_ms: int) -> None:
        self.index, self.term = index, term
        self._entry = chain.EntryHash()
        self._requests = self._changed_by_messages = 0
        if time_ms > self.state.meta.log_time_ms:
            # Log time never goes back.
            advance_time(self.state, self._entry.changed, time_ms)
        self._ids.begin(index, self.state.meta.log_time_ms)

    def execution_needed(self, command: commands.AnyCommand) -> ExecutionKey | None:
        """The execution that must be hot, if it exists, before the command is applied."""
        return execution_of(command)

    def executions_needed(self, command: commands.AnyCommand) -> list[ExecutionKey]:
        """As `execution_needed`, and those that the command's messages will need: better read together than singly."""
        if isinstance(command, commands.PurgeExecutions):
            return [(item.namespace, item.workflow_id) for item in command.items]
        needed = self.execution_needed(command)
        return [] if needed is None else [needed]

    def apply(self, command: commands.AnyCommand, identity: commands.RequestIdentity | None = None) -> Outcome:
        handler = self.handlers[type(command)]
        self._requests += identity is not None
        done = self._run(handler, command, identity)
        result = done.result
        if isinstance(command, commands.Checkpoint) and isinstance(result, Done):
            result = Checkpointed(self.index, self.chain)
        return Outcome(result, done.effects)

    @property
    def entry_is_full(self) -> bool:
        """Whether the messages of this entry have changed so much that the next has to wait for another entry."""
        return self._changed_by_messages >= limits.ROWS_CHANGED_PER_ENTRY

    def next_message(self) -> ExecutionKey | None:
        number = self.state.next_message()
        if number is None:
            return None
        message = self.state.messages[number,]
        return (message.namespace, message.workflow_id)

    def apply_message(self) -> Outcome:
        """Takes up the message at the head.

        One whose step fails is dropped, or nothing after it would be taken up; whoever sent it is told.
        """
        number = self.state.next_message()
        assert number is not None
        message = self.state.messages[number,]
        handler = MESSAGES[type(message)]

        def take_up(step: Step, message: Message) -> AnyResult:
            system.take_message(step, number)
            return handler(step, message)

        done = self._run(take_up, message)
        self._changed_by_messages += done.rows
        if self.state.next_message() == number:
            self._run(lambda step, message: system.drop_message(step, number, message, done.result), message)
        if self.state.next_message() == number:
            self._run(system.take_message, number)
        return Outcome(done.result, done.effects)

    def end_entry(self, entry_digest: bytes) -> bytes:
        """The chain hash after this entry."""
        if dedup.has_expired(self.state):
            self._run(system.drop_expired_requests, self._requests)
        self.chain = self._entry.finish(self.chain, entry_digest, self.state)
        return self.chain

    def _run(
        self, work: Callable[[Step, T], AnyResult], given: T, identity: commands.RequestIdentity | None = None
    ) -> StepRun:
        done = run(self.state, self._ids, self._entry.changed, work, given, identity)
        self._entry.add(done.result)
        return done
