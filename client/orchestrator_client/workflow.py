"""Workflows as plain data, built by naming steps; `to_json` gives Conductor's shape and nothing is executed here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from orchestrator_client.blocks import ForkBlock, SwitchBlock, wait_input
from orchestrator_client.codec import encode, field_types, is_object_type
from orchestrator_client.options import seconds
from orchestrator_client.refs import Ref, check_fits, ref_type, without_none
from orchestrator_client.schema_refs import SchemaRef, enforced
from orchestrator_client.tasks import RESULT, Compensator, Task

_RESERVED = ("workflow", "step")


class Workflow:
    """A workflow definition under construction. Its order of calls is the order of its steps.

    `input` is the type of its input (a dataclass; None for any object) and `output` that of its output, by which
    `Run.result()` answers; without one the output's members are attributes. Each status that it comes to is told by the
    event `conductor:<name>:<status_event>`, or to `status_sink`, such as `redis:STREAM`; each status of each of its
    tasks to `task_status_sink`.
    """

    def __init__(
        self,
        name: str,
        *,
        version: int = 1,
        input: type | None = None,
        output: type | None = None,
        description: str = "",
        timeout_ms: int | None = None,
        compensation_order: Literal["REVERSE", "PARALLEL"] | None = None,
        compensation_grace_ms: int | None = None,
        failure_workflow: str | None = None,
        status_event: str | None = None,
        status_sink: str | None = None,
        task_status_sink: str | None = None,
        variables: Mapping[str, Any] | None = None,
        concurrent_limit: int | None = None,
        concurrent_limit_key: str = "",
        masked_fields: Iterable[str] = (),
        input_schema: SchemaRef | None = None,
        output_schema: SchemaRef | None = None,
    ) -> None:
        if not name or ":" in name:
            raise ValueError(f"a workflow's name is not empty and has no colon: {name!r}")
        if version < 1:
            raise ValueError(f"versions count from 1; this one is {version}")
        for kind in (input, output):
            if kind is not None and not is_object_type(kind):
                raise TypeError(f"input and output of a workflow are JSON objects, which {kind!r} is not")
        self.name = name
        self.version = version
        self.input_type = input
        self.output_type = output
        self.tasks: dict[str, Task[..., Any]] = {}
        self._settings: dict[str, Any] = {}
        if description:
            self._settings["description"] = description
        if timeout_ms:
            self._settings |= {"timeoutPolicy": "TIME_OUT_WF", "timeoutSeconds": seconds(timeout_ms)}
        if compensation_order:
            self._settings["compensationOrder"] = compensation_order
        if compensation_grace_ms is not None:
            self._settings["compensationGraceSeconds"] = seconds(compensation_grace_ms)
        if failure_workflow:
            self._settings["failureWorkflow"] = failure_workflow
        if status_event and status_sink:
            raise ValueError(f"{name} says twice where its statuses are told: status_event and status_sink")
        if status_event or status_sink:
            sink = status_sink or f"conductor:{status_event}"
            self._settings |= {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": sink}
        if task_status_sink:
            self._settings["taskStatusListenerSink"] = task_status_sink
        if variables:
            self._settings["variables"] = encode(variables, "variables")
        if concurrent_limit:
            limit = {"rateLimitKey": concurrent_limit_key, "concurrentExecLimit": concurrent_limit}
            self._settings["rateLimitConfig"] = limit
        if masked_fields:
            self._settings["maskedFields"] = list(masked_fields)
        self._settings |= enforced(input_schema, output_schema)
        self._outputs: dict[str, Any] | None = None
        self._references: set[str] = set()
        # Of the content as it is; empty when that has changed since.
        self._digest = ""
        self._steps: list[dict[str, Any]] = []
        self._blocks: list[list[dict[str, Any]]] = [self._steps]

    def __repr__(self) -> str:
        return f"<Workflow {self.name} version {self.version}>"

    @property
    def input(self) -> Ref:
        """What the workflow is started with."""
        return Ref("workflow.input", Any if self.input_type is None else self.input_type)

    @property
    def variables(self) -> Ref:
        """What `set_variables` has set."""
        return Ref("workflow.variables")

    @property
    def workflow_id(self) -> Ref:
        return Ref("workflow.workflowId", str)

    def step(
        self,
        task: Task[..., Any],
        /,
        *args: Any,
        ref: str | None = None,
        pivot: bool = False,
        optional: bool = False,
        start_delay_ms: int = 0,
        on_change: Mapping[str, Mapping[str, Any]] | None = None,
        on_change_sink: str | None = None,
        **kwargs: Any,
    ) -> Ref:
        """Executes a task with these arguments and answers a reference to its result.

        Once a `pivot` step has completed nothing is undone any more. An `optional` step may fail without failing the
        workflow. `ref` is the reference name (default: the task's name, numbered from the second use). `on_change` says
        which events tell changes of its state, with what payload: `{"onFailed": {"lost": {"order": order.id}}}` raises
        `conductor:<workflow>:lost`, or, with an `on_change_sink` such as `redis:STREAM`, is written there.
        """
        if not isinstance(task, Task):
            raise TypeError(f"a step executes a @task, and {task!r} is none")
        if isinstance(task, Compensator):
            raise TypeError(f"{task.name} undoes {task.step.name}; it runs by itself when needed")
        if self.tasks.setdefault(task.name, task) is not task:
            raise ValueError(f"two different tasks are named {task.name!r}; give one another name")
        reference = self._reference(ref or task.name, numbered=ref is None)
        step = self._element(task.name, reference, "SIMPLE", self._arguments(task, reference, args, kwargs))
        if optional:
            step["optional"] = True
        if pivot:
            step["pivot"] = True
        if start_delay_ms:
            step["startDelay"] = seconds(start_delay_ms)
        if on_change:
            step["onStateChange"] = _announced(on_change, on_change_sink)
        if task.compensator is not None:
            step["compensateWith"] = {
                "name": task.compensator.name,
                "type": "SIMPLE",
                "inputParameters": {"step": {"input": "${step.input}", "output": "${step.output}"}},
            }
        path = f"{reference}.output"
        return Ref(f"{path}.{RESULT}" if task.wraps_result else path, task.signature.result)

    def event(self, sink: str, /, *, ref: str | None = None, **payload: Any) -> None:
        """Publishes an event: `conductor:NAME` to the handlers of `conductor:<workflow>:NAME`, `redis:STREAM` to
        whoever reads that stream, where its `event_id` is the same however often it is written.

        The sink may have references in it (`f"redis:{order.region}"`). Nobody is waited for.
        """
        if not sink:
            raise ValueError("an event needs a sink: conductor:NAME or redis:STREAM")
        reference = self._reference(ref or "event", numbered=ref is None)
        self._element("event", reference, "EVENT", encode(payload, "payload"))["sink"] = str(sink)

    @contextmanager
    def switch(self, value: Ref | str, *, ref: str | None = None) -> Iterator[SwitchBlock]:
        """Branches on a value at run time::

        with workflow.switch(order.kind) as kind:
            with kind.case("express"):
                workflow.step(...)
            with kind.default():
                workflow.step(...)
        """
        reference = self._reference(ref or "switch", numbered=ref is None)
        element = self._element("switch", reference, "SWITCH", {"value": encode(value)})
        element |= {"evaluatorType": "value-param", "expression": "value", "decisionCases": {}, "defaultCase": []}
        block = SwitchBlock(self._blocks, element)
        yield block
        block.check()

    @contextmanager
    def fork(self, *, ref: str | None = None) -> Iterator[ForkBlock]:
        """Runs branches side by side and goes on when all of them have ended::

        with workflow.fork() as fork:
            with fork.branch():
                left = workflow.step(...)
            with fork.branch():
                right = workflow.step(...)
        """
        reference = self._reference(ref or "fork", numbered=ref is None)
        join = self._reference(f"{reference}_join", numbered=False)
        element = self._element("fork", reference, "FORK_JOIN", {})
        block = ForkBlock(self._blocks, element)
        yield block
        self._element("join", join, "JOIN", {})["joinOn"] = block.joined()

    def wait(
        self,
        *,
        duration_ms: int | None = None,
        until: Any = None,
        signal: str | None = None,
        event: str | Ref | None = None,
        correlation_key: str | int | Ref | None = None,
        ref: str | None = None,
        type: Any = Any,
    ) -> Ref:
        """Waits for a time to pass, for a time to come (an aware datetime), for a signal, or for an event.

        A handler's action `correlate` gives an event to whoever waits for it with the same `correlation_key`. The
        result, of `type`, is the signal's payload, or what the handler gives of the event's.
        """
        reference = self._reference(ref or "wait", numbered=ref is None)
        given = wait_input(duration_ms, until, signal, event, correlation_key)
        self._element("wait", reference, "WAIT", given)
        return Ref(f"{reference}.output", type)

    def set_variables(self, *, ref: str | None = None, **variables: Any) -> None:
        """Sets variables, which later steps read as `workflow.variables.name`."""
        reference = self._reference(ref or "set_variables", numbered=ref is None)
        self._element("set_variables", reference, "SET_VARIABLE", encode(variables, "variables"))

    def terminate(
        self,
        status: Literal["COMPLETED", "FAILED", "TERMINATED"],
        reason: str | Ref = "",
        *,
        output: Any = None,
        compensate: bool = False,
        ref: str | None = None,
    ) -> None:
        """Ends the workflow. FAILED undoes what was done, TERMINATED only with `compensate`, COMPLETED never."""
        inputs: dict[str, Any] = {"terminationStatus": status}
        if isinstance(reason, Ref) or reason:
            inputs["terminationReason"] = str(reason)
        if output is not None:
            inputs["workflowOutput"] = encode(output, "output")
        if compensate:
            inputs["compensate"] = True
        reference = self._reference(ref or "terminate", numbered=ref is None)
        self._element("terminate", reference, "TERMINATE", inputs)

    def returns(self, whole: Ref | None = None, /, **members: Any) -> None:
        """Says what the workflow's output is made of: named members, or one reference to a dataclass."""
        if self._outputs is not None:
            raise ValueError(f"{self.name} says twice what it returns")
        if whole is not None:
            kind = without_none(ref_type(whole))
            if members or not dataclasses.is_dataclass(kind):
                raise TypeError("returns() takes named members, or alone one reference whose type is a dataclass")
            members = {name: whole[name] for name in field_types(kind)}  # type: ignore[arg-type]  # a class here
            self.output_type = self.output_type or kind  # type: ignore[assignment]  # a class, not an instance
        if self.output_type is not None and dataclasses.is_dataclass(self.output_type):
            known = field_types(self.output_type)
            for name, value in members.items():
                if name not in known:
                    raise TypeError(f"{self.output_type.__name__} has no {name!r}; it has {', '.join(known)}")
                check_fits(value, known[name], f"the output's {name}")
        self._outputs = encode(members, "output")
        self._digest = ""

    def to_dict(self, *, inline_tasks: bool = False) -> dict[str, Any]:
        """The definition in Conductor's shape; `inline_tasks` puts the task definitions into it."""
        if not self._steps:
            raise ValueError(f"the workflow {self.name} has no steps")
        document: dict[str, Any] = {"name": self.name, "version": self.version, "schemaVersion": 2}
        if self.input_type is not None and dataclasses.is_dataclass(self.input_type):
            document["inputParameters"] = list(field_types(self.input_type))
        document |= self._settings
        document["tasks"] = json.loads(json.dumps(self._steps))
        if inline_tasks:
            self._inline(document["tasks"])
        if self._outputs is not None:
            document["outputParameters"] = dict(self._outputs)
        return document

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def task_definitions(self) -> list[dict[str, Any]]:
        """The definitions of the tasks that it executes, compensations included."""
        return [definition for task in self.tasks.values() for definition in task.definitions()]

    def digest(self) -> str:
        """Differs when the definition or one of its tasks' differs."""
        if not self._digest:
            content = json.dumps([self.to_dict(), self.task_definitions()], sort_keys=True)
            self._digest = hashlib.sha256(content.encode()).hexdigest()
        return self._digest

    def _inline(self, elements: Iterable[Any]) -> None:
        known = {definition["name"]: definition for definition in self.task_definitions()}
        for element in elements:
            for task in (element, element.get("compensateWith")):
                if task and task["type"] == "SIMPLE" and task["name"] in known:
                    task["taskDefinition"] = known[task["name"]]
            branches = [*element.get("forkTasks", ()), *element.get("decisionCases", {}).values()]
            for branch in [*branches, element.get("defaultCase", ())]:
                self._inline(branch)

    def _element(self, name: str, reference: str, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
        element = {"name": name, "taskReferenceName": reference, "type": kind}
        if inputs:
            element["inputParameters"] = inputs  # type: ignore[assignment]  # the values are JSON of any kind
        self._blocks[-1].append(element)
        self._digest = ""
        return element

    def _reference(self, wanted: str, *, numbered: bool) -> str:
        if wanted in _RESERVED:
            raise ValueError(f"{wanted!r} is a reserved reference name; give another with ref=...")
        reference, number = wanted, 1
        while reference in self._references:
            if not numbered:
                raise ValueError(f"the reference name {wanted!r} is used twice in {self.name}")
            number += 1
            reference = f"{wanted}_{number}"
        self._references.add(reference)
        return reference

    def _arguments(
        self, task: Task[..., Any], reference: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        parameters = task.signature.parameters
        if len(args) > len(parameters):
            raise TypeError(f"{task.name} takes {len(parameters)} arguments, and the step gives {len(args)}")
        given = dict(zip((parameter.name for parameter in parameters), args, strict=False))
        for name in kwargs:
            if name in given:
                raise TypeError(f"{task.name} is given {name} twice")
        given |= kwargs
        known = {parameter.name: parameter for parameter in parameters}
        for name, value in given.items():
            if name not in known:
                raise TypeError(f"{task.name} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
            check_fits(value, known[name].type, f"{reference}: the parameter {name}")
        missing = [parameter.name for parameter in parameters if not parameter.optional and parameter.name not in given]
        if missing:
            raise TypeError(f"the step {reference} needs {', '.join(missing)}")
        return {name: encode(value, f"{reference}.{name}") for name, value in given.items()}


def _announced(changes: Mapping[str, Mapping[str, Any]], sink: str | None) -> dict[str, list[dict[str, Any]]]:
    where = {"sink": sink} if sink else {}
    return {
        change: [{"type": kind, "payload": encode(payload, "payload"), **where} for kind, payload in events.items()]
        for change, events in changes.items()
    }
