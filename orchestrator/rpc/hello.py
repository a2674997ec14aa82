"""A worker's hello as a session: what it asks for, and whether the session it names can be its own."""

from __future__ import annotations

from orchestrator.engine import commands, system
from orchestrator.engine.model import SessionKind
from orchestrator.engine.resident import Session
from orchestrator.rpc.errors import invalid
from orchestrator.rpc.requests import in_range, names, namespace_of, required, task_names, text
from orchestrator_api.v1 import workers_pb2 as pb

SLOTS_MAX = 10_000
SESSION_TIMEOUT_MS_DEFAULT = 10_000
SESSION_TIMEOUT_MS_MIN = 2_000
SESSION_TIMEOUT_MS_MAX = 60_000
POLLER_PREFIX = "poll:"


def command_of(hello: pb.WorkHello, made_id: str) -> commands.OpenSession:
    """Opens the session that the worker names; `made_id` is for one that names none."""
    session_id = text("hello.session_id", hello.session_id)
    if session_id.startswith(POLLER_PREFIX):
        raise invalid("hello.session_id", f"must not begin with {POLLER_PREFIX!r}")
    namespace, domain, served = _served(hello)
    return commands.OpenSession(
        session_id=session_id or made_id,
        kind=SessionKind.STREAM,
        namespace=namespace,
        domain=domain,
        worker_id=required("hello.worker_id", hello.worker_id),
        # In the order in which sessions keep them, so that resuming with the same names changes nothing.
        task_names=tuple(sorted(served)),
        slots=in_range("hello.slots", hello.slots, 0 if hello.held else 1, SLOTS_MAX),
        timeout_ms=in_range(
            "hello.session_timeout_ms",
            hello.session_timeout_ms or SESSION_TIMEOUT_MS_DEFAULT,
            SESSION_TIMEOUT_MS_MIN,
            SESSION_TIMEOUT_MS_MAX,
        ),
    )


def _served(hello: pb.WorkHello) -> tuple[str, str, tuple[str, ...]]:
    """(namespace, domain, task names): a worker's own, or the queues that a node serves for all namespaces."""
    domain = text("hello.domain", hello.domain)
    if hello.namespace != system.NAMESPACE:
        return namespace_of(hello.namespace), domain, task_names("hello.task_names", hello.task_names)
    if domain:
        raise invalid("hello.domain", "system work has no domains")
    served = names("hello.task_names", hello.task_names)
    if not all(map(system.is_queue, served)):
        raise invalid("hello.task_names", f"a session in {system.NAMESPACE!r} serves queues of system work only")
    return system.NAMESPACE, "", served


def require_same(session: Session, wanted: commands.OpenSession) -> None:
    """Raises RpcFailure if the session that exists is not one that this hello can resume."""
    if (session.kind, session.namespace, session.domain) != (wanted.kind, wanted.namespace, wanted.domain):
        raise invalid("hello.session_id", "is the session of a worker in another namespace or domain")


def poller_session_id(namespace: str, domain: str, worker_id: str) -> str:
    """One for each poller: the lengths keep names with colons apart."""
    return f"{POLLER_PREFIX}{len(namespace)}:{len(domain)}:{namespace}:{domain}:{worker_id}"
