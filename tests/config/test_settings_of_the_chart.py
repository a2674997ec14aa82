"""Who adds a setting, or changes its limits, does so for the chart, too, which refuses what the server would."""

from __future__ import annotations

import json

from tests.deploy import values_schema


def test_settings_of_the_chart_are_those_of_the_server() -> None:
    schema = json.loads(values_schema.FILE.read_text())
    found = schema["properties"]["settings"]["properties"]
    assert found == values_schema.settings(), "write them anew: python -m tests.deploy.values_schema"
