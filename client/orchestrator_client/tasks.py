"""Functions as tasks: what a worker executes and what a workflow's steps name.

A task's input is a JSON object with one member for each parameter of the function (its context excluded). A result
that is not an object travels as ``{"result": value}``, and None as ``{}``.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar, overload

from orchestrator_client.codec import Json, decode, encode, is_object_type
from orchestrator_client.context import CompensationContext, TaskContext
from orchestrator_client.errors import CodecError
from orchestrator_client.options import COMPENSATION_RETRY, STEP_RETRY, Retry, TaskOptions
from orchestrator_client.schema_refs import SchemaRef

P = ParamSpec("P")
R = TypeVar("R")

RESULT = "result"
"""The member that holds a result which is not an object."""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: Any
    optional: bool


@dataclass(frozen=True)
class Signature:
    """What the type hints of a function say, resolved."""

    parameters: tuple[Parameter, ...]
    # The name of the parameter that takes the context; None if the function wants none.
    context: str | None
    result: Any

    @cached_property
    def wraps_result(self) -> bool:
        """Whether the result's type never becomes an object."""
        kind = self.result
        return kind is not Any and kind is not None and kind is not type(None) and not is_object_type(kind)


class Task(Generic[P, R]):
    """A function that workers execute. Calling it just calls the function, so that unit tests need nothing else."""

    def __init__(self, function: Callable[P, R], name: str, options: TaskOptions) -> None:
        if not name or len(name) > 200:
            raise ValueError(f"a task's name has 1 to 200 characters; this one has {len(name)}")
        self.function = function
        self.name = name
        self.options = options
        self.compensator: Compensator | None = None
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__wrapped__ = function
        self._locals = _enclosing_locals(function)
        self._signature: Signature | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @property
    def signature(self) -> Signature:
        # Resolved late, so that annotations may name what the module defines further down.
        if self._signature is None:
            self._signature = _read_signature(self.function, self._locals)
            self._locals = {}
        return self._signature

    def queue(self, execution_namespace: str | None = None, isolation_group: str | None = None) -> str:
        """Where its attempts wait, without the domain; the arguments are for what its own options don't say."""
        namespace = self.options.execution_namespace or execution_namespace
        group = self.options.isolation_group or isolation_group
        return self.name + (f"@{namespace}" if namespace else "") + (f"-{group}" if group else "")

    def definition(self) -> dict[str, Any]:
        """Conductor's task definition."""
        return self.options.definition(self.name)

    def definitions(self) -> list[dict[str, Any]]:
        """The task's definition, and its compensation's if it has one."""
        return [self.definition(), *([self.compensator.definition()] if self.compensator else [])]

    def decode_arguments(self, document: Json) -> dict[str, Any]:
        """The function's arguments as the step's input gives them."""
        return decode_parameters(self.signature.parameters, document)

    def encode_result(self, value: Any) -> Json:
        if value is None:
            return {}
        document = encode(value, RESULT)
        return document if isinstance(document, dict) and not self.wraps_result else {RESULT: document}

    def decode_result(self, document: Json, kind: Any = None) -> Any:
        """The function's result from the step's output; `kind` stands in for a missing return annotation."""
        result = self.signature.result if kind is None else kind
        if self.wraps_result and isinstance(document, dict):
            document = document.get(RESULT)
        return decode(result, document, "output")

    @property
    def wraps_result(self) -> bool:
        """Whether the result's type never becomes an object, so that it travels as the member `result`."""
        return self.signature.wraps_result

    @overload
    def compensation(self, function: Callable[..., Any], /) -> Compensator: ...
    @overload
    def compensation(
        self, /, *, name: str | None = None, **options: Any
    ) -> Callable[[Callable[..., Any]], Compensator]: ...
    def compensation(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
    ) -> Compensator | Callable[[Callable[..., Any]], Compensator]:
        """Says how the step is undone. It must tolerate that the step never happened, and be repeatable.

        The function takes the step's parameters by their names, the step's result (None if the outcome is unknown)
        under any other name, and a CompensationContext; it may leave out what it does not need. Options as for
        `task`; the default is 20 attempts, 1 s to 60 s apart.
        """

        if self.compensator is not None:
            raise TypeError(f"{self.name} is compensated by {self.compensator.name} already")
        settings = TaskOptions(**{"retry": COMPENSATION_RETRY, **options})

        def attach(undo: Callable[..., Any]) -> Compensator:
            self.compensator = Compensator(self, undo, name or _default_name(undo), settings)
            return self.compensator

        return attach if function is None else attach(function)


class Compensator(Task[..., Any]):
    """The task that undoes a step."""

    def __init__(self, step: Task[..., Any], function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        super().__init__(function, name, options)
        self.step = step

    def compensation(self, *args: Any, **kwargs: Any) -> typing.NoReturn:
        raise TypeError(f"{self.name} is a compensation: it can't have one of its own")

    def bind(self, step_input: Json, step_output: Json | None) -> dict[str, Any]:
        """The function's arguments: parts of the step's input by name, and the step's result."""
        inputs, done = self._roles()
        arguments = {}
        for own, theirs in inputs.items():
            wanted = Parameter(theirs.name, theirs.type if own.type is Any else own.type, theirs.optional)
            decoded = decode_parameters((wanted,), step_input)
            if theirs.name in decoded:
                arguments[own.name] = decoded[theirs.name]
        if done is not None:
            kind = None if done.type is Any else done.type
            arguments[done.name] = None if step_output is None else self.step.decode_result(step_output, kind)
        return arguments

    def _roles(self) -> tuple[dict[Parameter, Parameter], Parameter | None]:
        theirs = {parameter.name: parameter for parameter in self.step.signature.parameters}
        mine = self.signature.parameters
        unnamed = [parameter for parameter in mine if parameter.name not in theirs]
        if len(unnamed) <= 1:
            done = unnamed[0] if unnamed else None
            return {own: theirs[own.name] for own in mine if own is not done}, done
        if len(mine) == len(theirs) + 1:  # other names, but the step's parameters in their order and then the result
            return dict(zip(mine, theirs.values(), strict=False)), mine[-1]
        raise TypeError(
            f"the compensation {self.name} can take {', '.join(theirs) or 'no parameter'} (as {self.step.name} does), "
            f"the step's result and a context; it takes {', '.join(parameter.name for parameter in mine)}"
        )


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retry: Retry = STEP_RETRY,
    timeout_ms: int | None = None,
    response_timeout_ms: int | None = None,
    total_timeout_ms: int | None = None,
    concurrent_limit: int | None = None,
    rate_limit: int | None = None,
    rate_window_ms: int | None = None,
    execution_namespace: str | None = None,
    isolation_group: str | None = None,
    runtime_metadata: Sequence[str] = (),
    description: str = "",
    input_schema: SchemaRef | None = None,
    output_schema: SchemaRef | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    extra: Mapping[str, Any] | None = None,
    **options: Any,
) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a function a task: `async def` runs on the worker's loop, plain `def` in a thread of its own."""

    settings = TaskOptions(**options, extra=dict(extra or {}))

    def make(target: Callable[P, R]) -> Task[P, R]:
        return Task(target, name or _default_name(target), settings)

    return make if function is None else make(function)


def decode_parameters(parameters: tuple[Parameter, ...], document: Json) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise CodecError("input", "expected an object with one member for each parameter")
    arguments = {}
    for parameter in parameters:
        if parameter.name in document:
            # An expression whose path is missing resolves to null: a default stands in for it.
            if document[parameter.name] is None and parameter.optional and not _takes_none(parameter.type):
                continue
            arguments[parameter.name] = decode(parameter.type, document[parameter.name], parameter.name)
        elif not parameter.optional:
            if not _takes_none(parameter.type):
                raise CodecError(parameter.name, "missing in the input")
            arguments[parameter.name] = None
    return arguments


def _takes_none(kind: Any) -> bool:
    return kind is Any or type(None) in typing.get_args(kind) or kind is type(None)


def _default_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise TypeError("a task without a function name needs name=...")
    return str(name)


def _enclosing_locals(function: Callable[..., Any]) -> dict[str, Any]:
    """Names around a function that is defined inside another: string annotations may mean them."""
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return dict(frame.f_locals)


def _read_signature(function: Callable[..., Any], names: dict[str, Any]) -> Signature:
    try:
        hints = typing.get_type_hints(function, localns=names or None, include_extras=True)
    except NameError as error:
        raise TypeError(f"the annotations of {function.__qualname__} name {error.name!r}, which is not known") from None
    parameters = []
    context = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{function.__qualname__}: a task takes plain named parameters, not {parameter}")
        kind = hints.get(parameter.name, Any)
        if kind in (TaskContext, CompensationContext) or (kind is Any and parameter.name == "ctx"):
            context = parameter.name
        else:
            parameters.append(Parameter(parameter.name, kind, parameter.default is not parameter.empty))
    return Signature(tuple(parameters), context, hints.get("return", Any))
