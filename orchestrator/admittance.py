"""How a node lets callers in, by its settings, and what it shows itself when it calls another node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.access.audit import AuditLog
from orchestrator.access.limits import ClientLimits
from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.policy import Policy
from orchestrator.access.roles import Role
from orchestrator.access.rules_file import RulesInvalid, read_rules
from orchestrator.access.watching import Rules
from orchestrator.config import Config
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.call_counts import CallCounts
from orchestrator.rpc.guard import Guard
from orchestrator.rpc.open_calls import CallLimits, OpenCalls
from orchestrator.rpc.unread import Unread, UnreadLimits
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World


class Admittance:
    """From `open`, which reads the files; `run` watches them from then on."""

    def __init__(self, config: Config, world: World, metrics: Metrics) -> None:
        self._config = config
        self._world = world
        self._metrics = metrics
        self._secret: NodeSecret | None = None
        self._rules: Rules | None = None
        self._audit = AuditLog(
            Path(config.audit_file) if config.audit_file else None, node=config.node, wall_ms=world.clock.wall_ms
        )

        limits = CallLimits(config.grpc_calls_max, config.client_calls_max, config.client_read_timeout_ms / 1000)
        self.open_calls = OpenCalls(limits, lambda reason: metrics.streams_cut.labels(reason).inc())
        metrics.open_calls.set_function(lambda: self.open_calls.count)
        self.unread = Unread(UnreadLimits(config.grpc_unread_bytes_max, config.client_unread_bytes_max),
                             lambda reason: metrics.streams_cut.labels(reason).inc())
        metrics.unread_bytes.set_function(lambda: self.unread.count_bytes)

    def open(self, cluster_id: str) -> None:
        """Raises RulesInvalid, and OSError for an audit log that can't be written."""
        config, counters = self._config, self._metrics
        self._secret = _node_secret(config, cluster_id)
        if config.access_file:
            self._rules = Rules(Path(config.access_file), self._secret)
            _check_nodes(config, self._rules.policy)
            self._rules.on_reload = lambda is_right: counters.access_reloads.labels(
                "taken" if is_right else "refused").inc()
        self._audit.on_failure = counters.audit_failures.inc
        counters.audit_unwritten_lines.set_function(lambda: self._audit.unwritten)
        self._audit.open()

    def guard(self, backend: Backend) -> Guard:
        """At the door of what serves the backend."""
        config, world = self._config, self._world
        limits = ClientLimits(
            requests_per_second=config.client_requests_per_second,
            burst=config.client_requests_burst,
            streams_max=config.client_streams_max,
        )
        return Guard(
            backend,
            rules=self._rules,
            limits=limits,
            audit=self._audit,
            wall_ms=world.clock.wall_ms,
            monotonic=world.clock.monotonic,
            on_refused=lambda reason: self._metrics.requests_denied.labels(reason).inc(),
            open_calls=self.open_calls,
            unread=self.unread,
            counts=CallCounts(self._metrics.grpc_calls, self._metrics.grpc_call_seconds, world.clock.monotonic),
        )

    @property
    def authorization(self) -> Callable[[], str] | None:
        """What this node shows where it calls another one; None if that is nothing, or its certificate."""
        return self._show if self._config.node_secret_file else None

    def _show(self) -> str:
        assert self._secret is not None
        return self._secret.authorization(self._config.node, self._world.clock.wall_ms())

    async def run(self) -> None:
        """Watches the access file, if there is one."""
        if self._rules is not None:
            await self._rules.run()

    def close(self) -> None:
        self._audit.close()


def check_files(config: Config) -> None:
    """Raises RulesInvalid for what a node could not start with."""
    secret = _node_secret(config, "")
    if config.access_file:
        _check_nodes(config, read_rules(Path(config.access_file), secret))


def _check_nodes(config: Config, policy: Policy) -> None:
    """Raises RulesInvalid if nodes could not let each other in."""
    if not config.node_secret_file and not any(grant.role is Role.NODE for grant in policy.grants):
        raise RulesInvalid(f"{config.access_file}: nobody has the role node, which the nodes' certificates need where "
                           "there is no node_secret_file")


def _node_secret(config: Config, cluster_id: str) -> NodeSecret | None:
    path = config.node_secret_file
    if not path:
        return None
    try:
        return NodeSecret(Path(path).read_bytes(), cluster_id)
    except OSError as error:
        raise RulesInvalid(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise RulesInvalid(f"{path} {error}") from None
