"""The fixture that users get with the distribution; here without its being installed."""

from __future__ import annotations

from orchestrator.testing.plugin import cluster

__all__ = ["cluster"]
