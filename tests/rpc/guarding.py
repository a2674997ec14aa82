"""A bench behind a guard: rules by a file, callers by their tokens, certificates or proofs."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from orchestrator.access import tokens
from orchestrator.access.audit import AuditLog
from orchestrator.access.limits import ClientLimits
from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.watching import Rules
from orchestrator.rpc.call_counts import CallCounts
from orchestrator.rpc.guard import Guard
from orchestrator.rpc.server import RpcServer
from orchestrator.rpc.unread import Unread
from orchestrator.telemetry.metrics import Metrics
from orchestrator_client.authorization import authorized
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of

NOW_MS = 1_900_000_000_000
SECRET = b"0123456789abcdef0123456789abcdef"

RULES = """
[[grant]]
to = ["reader"]
role = "reader"
namespaces = ["default"]
[[grant]]
to = ["starter"]
role = "starter"
namespaces = ["default"]
workflows = ["order*"]
events = ["paid"]
[[grant]]
to = ["payer"]
role = "worker"
namespaces = ["default"]
tasks = ["pay"]
[[grant]]
to = ["shipper"]
role = "worker"
namespaces = ["default"]
tasks = ["ship"]
[[grant]]
to = ["operator"]
role = "operator"
namespaces = ["default"]
[[grant]]
to = ["owner"]
role = "admin"
namespaces = ["default"]
[[grant]]
to = ["admin"]
role = "admin"
namespaces = ["*"]
"""
NAMES = ("reader", "starter", "payer", "shipper", "operator", "owner", "admin", "nobody")


class Guarded:
    """The node, its files, and its clock."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.file = folder / "access.toml"
        self.audit_file = folder / "audit.jsonl"
        self.now_ms = NOW_MS
        self.monotonic = 1000.0
        self.refused: Counter[str] = Counter()
        self.metrics = Metrics(node="n1", version="0")
        self.tokens: dict[str, str] = {}
        self.entries: dict[str, str] = {}
        for name in NAMES:
            self.tokens[name], kept = tokens.make(secrets.token_bytes)
            self.entries[name] = f'[[token]]\nname = "{name}"\nhash = "{kept}"\n'
        self.rules: Rules
        self.audit: AuditLog
        self.address = ""
        self._channels: list[grpc.aio.Channel] = []

    def write(self, rules: str = RULES, *, without: str = "", more: str = "") -> None:
        """Without the token of somebody, whom the rules must not name then."""
        entries = "".join(entry for name, entry in self.entries.items() if name != without)
        self.file.write_text(entries + rules + more)

    def as_(self, name: str) -> Stubs:
        """A client that shows this one's token; nothing for an empty name."""
        return self.showing(f"Bearer {self.tokens[name]}") if name else self.showing("")

    def showing(self, authorization: str | Callable[[], str]) -> Stubs:
        channel = grpc.aio.insecure_channel(self.address, options=(("grpc.use_local_subchannel_pool", 1),))
        self._channels.append(channel)
        show = authorization if callable(authorization) else lambda: authorization
        return Stubs(authorized(channel, show) if authorization else channel)

    def node(self, name: str = "a") -> Stubs:
        return self.showing(lambda: NodeSecret(SECRET, "c").authorization(name, self.now_ms))

    def recorded(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        if not self.audit_file.exists():
            return []
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@contextlib.asynccontextmanager
async def guarded(
    bench: Bench, folder: Path, rules: str | None = RULES, limits: ClientLimits | None = None, more: str = "",
    unread: Unread | None = None,
) -> AsyncIterator[Guarded]:
    """`rules` None: there are none."""
    made = Guarded(bench, folder)
    if rules is not None:
        made.write(rules, more=more)
        made.rules = Rules(made.file, NodeSecret(SECRET, "c"))
    made.audit = AuditLog(made.audit_file, node="n1", wall_ms=lambda: made.now_ms)
    backend = bench.backend()

    def count(reason: str) -> None:
        made.refused[reason] += 1

    guard = Guard(
        backend,
        rules=None if rules is None else made.rules,
        limits=limits,
        audit=made.audit,
        wall_ms=lambda: made.now_ms,
        monotonic=lambda: made.monotonic,
        on_refused=count,
        counts=CallCounts(made.metrics.grpc_calls, made.metrics.grpc_call_seconds, lambda: made.monotonic),
        unread=unread,
    )
    server = RpcServer(backend, guard)
    await server.start("127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.port}"
    try:
        yield made
    finally:
        await made.close()
        await server.stop(0)
        made.audit.close()


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """(code, reason) of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code(), info_of(failed.value).reason


DENIED = (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
MISSING = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
INVALID = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
EXPIRED = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND")
