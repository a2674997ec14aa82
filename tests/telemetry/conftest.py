"""What the tests of metrics, rules and dashboards have in common."""

from __future__ import annotations

import pytest

from tests.telemetry.prometheus import Promtool


@pytest.fixture
def promtool() -> Promtool:
    return Promtool()
