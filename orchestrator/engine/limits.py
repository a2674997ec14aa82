"""Every bound that apply enforces, with its unit. Changing one changes results: it needs a behaviour level."""

from __future__ import annotations

PAYLOAD_BYTES = 256 * 1024
DETAILS_BYTES = 64 * 1024
EXECUTION_BYTES = 64 * 1024 * 1024
TASKS = 20_000
# What the attempts of an execution have logged; of one line, the beginning.
LOG_LINES = 1000
LOG_BYTES = 256 * 1024
LOG_LINE_CHARS = 8 * 1024
ITERATIONS = 1_000_000  # of a loop; without keepLastN the limit of tasks comes first
FORKED = 10_000
JOINED = 100  # attempts that wait for the end of an execution which others have started
DEPTH = 64  # of sub-workflows in each other
WORKFLOW_ID_CHARS = 200
IDEMPOTENCY_KEY_CHARS = 200
NAME_CHARS = 200
REASON_CHARS = 10_000
SIGNALS = 100
MESSAGES = 1000  # in the queue of a workflow
MESSAGES_PULLED = 100  # by one task
SIGNAL_BYTES = 1024 * 1024
PRIORITY = 99
SERVICES = 1000
SERVICES_BYTES = 64 * 1024 * 1024
SERVICE_BYTES = 3 * 512 * 1024
DESCRIPTOR_SET_BYTES = 1024 * 1024
SCHEMAS = 5_000
SCHEMAS_BYTES = 64 * 1024 * 1024
SCHEMA_BYTES = 256 * 1024  # which is what an evaluator takes
SECRETS = 1_000  # in one namespace
SECRETS_IN_ALL = 10_000
SECRET_BYTES = 16 * 1024  # of a value
SEALED_BYTES = SECRET_BYTES + 64

TRANSITIONS_PER_STEP = 64
# By whoever comes while something is left to do, which a message sees to: an entry has up to a thousand such commands.
TRANSITIONS_BESIDE = 4
TIMERS_PER_COMMAND = 256
ROWS_REMOVED_PER_STEP = 1000
PURGED_PER_COMMAND = 1000
RETENTION = 2**53
MESSAGES_PER_ENTRY = 1000
# After so many rows have been changed by an entry's messages, the others wait for the next entry: what an entry has
# changed is hashed and told at once, and other commands wait until it is applied.
ROWS_CHANGED_PER_ENTRY = 256
REQUESTS_DROPPED_PER_ENTRY = 64

REQUEST_WINDOW_MS = 600_000
CLIENT_SESSION_IDLE_MS = 3_600_000
CLIENT_RESULTS = 1024

WORKER_LOSSES_FREE = 3
# For a polled attempt without a response timeout: nothing else would tell that its worker is gone.
POLLED_RESPONSE_MS = 3_600_000
RETRY_DELAY_MS = (2**31 - 1) * 1000

DELIVERED_TOGETHER = 1000
SLOTS = 10_000
# Polls are noted this often, and a poller is known for this long after: ten seconds at least from each poll.
POLLS_NOTED_MS = 5_000
POLLER_KNOWN_MS = 15_000
TASK_NAMES = 1000

SCHEDULES = 5_000  # in all namespaces
SCHEDULE_DOCUMENT_BYTES = 64 * 1024
SCHEDULE_RUNS_KEPT = 20  # of each schedule
SCHEDULE_TIMES = 128  # in one ArmSchedule
SCHEDULE_CRONS = 20
SCHEDULE_JITTER_MS = 60_000

EVENT_HANDLERS = 1_000  # in all namespaces
EVENT_HANDLERS_OF_ONE = 100  # of one event
EVENT_HANDLER_DOCUMENT_BYTES = 64 * 1024
EVENT_ACTIONS = 20  # of one handler
EVENTS = 10_000  # not yet handled, in all namespaces
EVENT_BYTES = 64 * 1024 * 1024  # their payloads
EVENT_RUNS_KEPT = 10_000  # in all namespaces
EVENTS_SEEN = 50_000  # message ids, in all namespaces
EVENT_SEEN_MS = 86_400_000
# Events that are to be written to streams outside. Beyond, nothing is started that publishes to one; at twice that,
# tasks that publish to one fail; changes of status are told all the same, without their payloads.
OUTBOX_EVENTS = 100_000
OUTBOX_BYTES = 64 * 1024 * 1024  # their payloads
# With so many, entries of streams stay where they are, so that there is room for what can't wait elsewhere.
EVENTS_FROM_STREAMS = 5_000
EVENT_BYTES_FROM_STREAMS = 32 * 1024 * 1024
# Entries of a stream, and handlers that begin, in one step; the others follow.
STREAM_WORK_PER_STEP = 1_000
EVENTS_KEPT = 10_000  # that nobody waits for yet, in all namespaces
EVENTS_KEPT_BYTES = 64 * 1024 * 1024  # what the tasks will be given
EVENT_KEPT_MS = 86_400_000
EVENTS_FORGOTTEN_PER_STEP = 64
TRAIL_KEPT = 50_000  # entries, in all namespaces
TRAIL_REASON_CHARS = 200

BLOBS = 100_000  # values outside the log, in all namespaces
BLOB_BYTES = 1 << 30  # of one
EXECUTION_BLOBS = 1_000  # that the payloads of an execution have referred to
BLOBS_PER_COMMAND = 1_000
BLOB_UNUSED_MS = 3_600_000  # since when no execution refers to one that may be deleted
