"""A workflow's `rateLimitConfig`: how many of its executions may run at once under one key."""

from __future__ import annotations

from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.model import RateLimit
from orchestrator.engine.expressions import parse_template

_KNOWN = ("rateLimitKey", "concurrentExecLimit")


def read_rate_limit(fields: Fields) -> RateLimit | None:
    """None where there is no limit. The key may refer to the workflow, which has no tasks yet when it is resolved."""
    raw = fields.raw("rateLimitConfig")
    if raw is None:
        return None
    config = Fields(raw, fields.at("rateLimitConfig"), _KNOWN)
    at_once = config.integer("concurrentExecLimit", 0)
    config.text("rateLimitKey")
    key = parse_template(config.raw("rateLimitKey") or b'""', config.at("rateLimitKey"), frozenset())
    return RateLimit(key, at_once) if at_once else None
