"""How many executions have a status that few of them have, counted by an index: of what is committed."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from orchestrator.engine.model import WorkflowStatus
from orchestrator.storage.database import Database
from orchestrator.storage.schema import corruption_named

_NAMESPACE = "SELECT min(namespace) FROM execution INDEXED BY execution_status WHERE namespace > ?"
_COUNT = "SELECT count(*) FROM execution INDEXED BY execution_status WHERE namespace = ? AND status = ?"


async def count_statuses(database: Database, statuses: Sequence[WorkflowStatus]) -> list[int]:
    """In all namespaces together. Costs as much as there are of them: not for those that most have."""

    def run(connection: apsw.Connection) -> list[int]:
        counts = [0] * len(statuses)
        with corruption_named():
            namespace: str | None = connection.execute(_NAMESPACE, ("",)).get
            while namespace is not None:
                for at, status in enumerate(statuses):
                    counts[at] += connection.execute(_COUNT, (namespace, int(status))).get
                namespace = connection.execute(_NAMESPACE, (namespace,)).get
        return counts

    return await database.search(run)
