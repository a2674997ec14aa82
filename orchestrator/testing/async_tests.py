"""Async tests that run in a cluster's time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator.testing.cluster import Cluster

AsyncTest = Callable[..., Coroutine[Any, Any, None]]


def virtual(*, nodes: int = 3, seed: int = 0) -> Callable[[AsyncTest], Callable[..., None]]:
    """Runs an async test, which takes `cluster`, once: as the fixture does, with these nodes and this seed."""

    def decorate(test: AsyncTest) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            with Cluster(nodes=nodes, seed=seed) as cluster:
                cluster.run(test(*args, cluster=cluster, **kwargs))

        return as_sync_test(test, run)

    return decorate


def as_sync_test(test: AsyncTest, run: Callable[..., None]) -> Callable[..., None]:
    """`run` under the name of the test and with its parameters, but for the cluster, which it makes itself."""
    name = getattr(test, "__qualname__", repr(test))
    if not inspect.iscoroutinefunction(test):
        raise TypeError(f"{name} must be an `async def`: it runs in the time of a cluster")
    signature = inspect.signature(test)
    if "cluster" not in signature.parameters:
        raise TypeError(f"{name} must take a parameter `cluster`")

    @functools.wraps(test)
    def sync_test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        run(*args, **kwargs)

    rest = [parameter for name, parameter in signature.parameters.items() if name != "cluster"]
    sync_test.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]  # for inspect
    del sync_test.__wrapped__  # nobody is to find the async function behind it
    return sync_test
