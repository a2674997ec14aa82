"""The client of an orchestrator cluster: define workflows and tasks, start executions, and run workers.

async with Client(["a:7400", "b:7400", "c:7400"]) as client:
    run = await client.start(order_saga, order, id="order-1")
    print((await run.result(timeout_s=30)).tracking)
"""

from __future__ import annotations

from orchestrator_client import forking as _forking  # noqa: F401 - first: before gRPC is imported
from orchestrator_client.client import Client
from orchestrator_client.codec import decode, encode
from orchestrator_client.context import CompensatedStepContext, CompensationContext, TaskContext
from orchestrator_client.errors import (
    AlreadyExists,
    ClusterError,
    CodecError,
    DeadlineExceeded,
    InsecureConnection,
    InternalError,
    InvalidRequest,
    NoLeader,
    NotDone,
    NotFound,
    OrchestratorError,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    ReplyError,
    RequestError,
    RequestExpired,
    TerminalError,
    TLSUnusable,
    Unauthenticated,
    Unimplemented,
    WorkflowFailed,
    WorkflowTerminated,
    WorkflowTimedOut,
    WrongState,
)
from orchestrator_client.events import (
    EventRun,
    EventRunState,
    IncomingStream,
    OutgoingStream,
    PendingEvent,
    PublishedEvent,
    StreamStatus,
    TrailEntry,
    TrailEntryKind,
)
from orchestrator_client.executing import Awaited, ReturnStrategy
from orchestrator_client.execution import (
    ClusterStatus,
    CompensatedStep,
    CompensationReport,
    CompensationState,
    Execution,
    Leader,
    NodeStatus,
    TaskAttempt,
    TaskQueue,
    TaskQueueWorker,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator_client.mocking import Mocks, Rehearsed, TaskMock
from orchestrator_client.options import Retry, TaskOptions
from orchestrator_client.output import Output
from orchestrator_client.refs import Ref, secret
from orchestrator_client.running import run
from orchestrator_client.runs import Run
from orchestrator_client.schedules import FireTime, Schedule, ScheduleRun, ScheduleRunState, StartedRun
from orchestrator_client.searching import FoundTask, Hits
from orchestrator_client.sync import SyncClient, SyncRun, SyncWorker
from orchestrator_client.tasks import Compensator, Task, task
from orchestrator_client.timing import AttemptTiming, TimeKind, WorkflowTiming
from orchestrator_client.tls import TLS
from orchestrator_client.upkeep import BulkResult, OperationFailure, RetentionPolicy, TaskLogLine, TaskLogs, Waiting
from orchestrator_client.worker import Worker
from orchestrator_client.workflow import Workflow

__all__ = [
    "AlreadyExists",
    "Awaited",
    "AttemptTiming",
    "BulkResult",
    "Client",
    "ClusterError",
    "ClusterStatus",
    "CodecError",
    "CompensatedStep",
    "CompensatedStepContext",
    "CompensationContext",
    "CompensationReport",
    "CompensationState",
    "Compensator",
    "DeadlineExceeded",
    "EventRun",
    "EventRunState",
    "Execution",
    "FoundTask",
    "Hits",
    "FireTime",
    "IncomingStream",
    "InsecureConnection",
    "InternalError",
    "InvalidRequest",
    "Leader",
    "Mocks",
    "NoLeader",
    "NodeStatus",
    "NotDone",
    "NotFound",
    "OperationFailure",
    "OrchestratorError",
    "OutgoingStream",
    "OutcomeUnknown",
    "Output",
    "Overloaded",
    "PendingEvent",
    "PermissionDenied",
    "PublishedEvent",
    "Ref",
    "secret",
    "Rehearsed",
    "ReplyError",
    "RequestError",
    "RequestExpired",
    "RetentionPolicy",
    "Retry",
    "ReturnStrategy",
    "Run",
    "Schedule",
    "ScheduleRun",
    "ScheduleRunState",
    "StartedRun",
    "StreamStatus",
    "SyncClient",
    "SyncRun",
    "SyncWorker",
    "Task",
    "TaskAttempt",
    "TaskContext",
    "TaskLogLine",
    "TaskLogs",
    "TaskMock",
    "TaskOptions",
    "TaskQueue",
    "TaskQueueWorker",
    "TaskStatus",
    "TLS",
    "TLSUnusable",
    "TerminalError",
    "TrailEntry",
    "TrailEntryKind",
    "Unauthenticated",
    "Unimplemented",
    "Waiting",
    "TimeKind",
    "Worker",
    "Workflow",
    "WorkflowFailed",
    "WorkflowStatus",
    "WorkflowTerminated",
    "WorkflowTimedOut",
    "WorkflowTiming",
    "WrongState",
    "decode",
    "encode",
    "run",
    "task",
]
