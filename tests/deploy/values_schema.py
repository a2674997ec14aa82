"""`python -m tests.deploy.values_schema`: writes values.schema.json of the chart anew, after a setting has changed.

What a node's settings may be stands in the server's table of settings alone; the rest of the schema is written by hand.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.config import SETTINGS
from tests.deploy.tools import ROOT

CHART = ROOT / "deploy" / "helm" / "orchestrator-cluster"
FILE = CHART / "values.schema.json"
# Those that the chart sets itself, by what is chosen beside `settings`.
OF_THE_CHART = {"node", "data_dir", "insecure", "access_file", "node_secret_file", "secret_keys_file", "metrics_tls",
                "redis_password_file", "redis_sentinel_password_file"}


def settings() -> dict[str, Any]:
    """By the name of a setting that can be chosen, the schema of its values."""
    found = {}
    for name, field in SETTINGS.items():
        if name in OF_THE_CHART or "_tls_" in name or "address" in field.metadata:
            continue
        about = field.metadata
        if field.type == "int":
            found[name] = {"type": "integer", "minimum": about["min"], "maximum": about["max"]}
        elif "choices" in about:
            found[name] = {"enum": list(about["choices"])}
        else:
            found[name] = {"type": "boolean" if field.type == "bool" else "string"}
    return found


def main() -> None:
    schema = json.loads(FILE.read_text())
    schema["properties"]["settings"]["properties"] = settings()
    FILE.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
