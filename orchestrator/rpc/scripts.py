"""Scripts and queries in what is registered: what does not parse is refused at the door, and not when it is run.

They are looked at where such things are evaluated, outside of this process. Where nothing can be at the moment they
pass: what is wrong with them is told when they are run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from orchestrator.engine.definitions.elements import Element, subtree, used_schemas
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.definitions.operators import JAVASCRIPT
from orchestrator.engine.definitions.parse import ParsedWorkflow
from orchestrator.engine.definitions.schemas import SchemaUse
from orchestrator.engine.definitions.scripts import has_references
from orchestrator.engine.expressions import fields_of, text_of
from orchestrator.integrations.work import Ended, Kind, Outcome, Source, Work

CheckSource = Callable[[Source], Awaitable[str | None]]
"""Why it can't be run; None if it can, or nobody can tell."""

Evaluate = Callable[[Work], Awaitable[Outcome]]
"""What came of a script, a query or a schema."""

_AT_ONCE = 16


async def unchecked(source: Source) -> str | None:
    """Of a node that evaluates nothing."""
    return None


async def unevaluated(work: Work) -> Outcome:
    """Of a node that evaluates nothing."""
    reason = f"this node evaluates no {work.kind!r}"
    return Outcome(ended=Ended.FAILED, error_code="SANDBOX_UNAVAILABLE", reason=reason)


async def check_sources(check: CheckSource, sources: Iterable[tuple[str, Source]]) -> None:
    """Raises DefinitionInvalid with the path of the first one that does not parse."""
    first: dict[Source, str] = {}
    for path, source in sources:
        first.setdefault(source, path)
    waiting = list(first.items())
    for start in range(0, len(waiting), _AT_ONCE):
        batch = waiting[start : start + _AT_ONCE]
        for (_, path), fault in zip(batch, await asyncio.gather(*(check(source) for source, _ in batch)), strict=True):
            if fault is not None:
                raise DefinitionInvalid(path, fault)


def sources_of(workflow: ParsedWorkflow) -> list[tuple[str, Source]]:
    """(path, source) of all scripts, queries and schemas that the definition itself has, in its order. Those with
    references in them are known when they are run."""
    found = schemas_of([*workflow.schemas.uses(), *used_schemas(workflow.elements)])
    for element in subtree(workflow.elements):
        found.extend(_sources_of(element, workflow.references))
    return found


def schemas_of(uses: Iterable[SchemaUse]) -> list[tuple[str, Source]]:
    """(path, source) of the schemas that stand in a definition itself."""
    return [
        (f"{use.path}.data", Source(Kind.SCHEMA, use.data.decode("utf-8", "surrogatepass"))) for use in uses if use.data
    ]


def _sources_of(element: Element, references: frozenset[str]) -> Iterator[tuple[str, Source]]:
    given = fields_of(element.input)
    script = element.script
    if script is not None and not (script.in_input and has_references(script.expression, references)):
        home = element.input_path if script.in_input else element.path
        yield f"{home}.{script.key}", Source(Kind.SCRIPT, script.expression, script.body)
    if element.evaluator in JAVASCRIPT:
        key = "caseExpression" if element.reported else "expression"
        yield f"{element.path}.{key}", Source(Kind.SCRIPT, element.expression)
    if element.condition:
        yield f"{element.path}.loopCondition", Source(Kind.SCRIPT, element.condition)
    if element.type == TaskType.JSON_JQ_TRANSFORM and "queryExpression" in given:
        query = text_of(given["queryExpression"])
        if "${" not in query:
            yield f"{element.input_path}.queryExpression", Source(Kind.JQ, query)
