"""pytest's plugin: the fixture `cluster`. It costs nothing where the fixture is not used.

An async test that takes the fixture runs in the cluster's time, whatever other plugin would run it. A plain one has
`cluster.run(...)`. A fixture of yours that is called `cluster` takes precedence, as always.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator.testing.cluster import Cluster


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, formed, in which the test runs; see orchestrator.testing."""
    from orchestrator.testing.cluster import Cluster  # noqa: PLC0415 - only who uses it waits for its imports

    with Cluster() as formed:
        if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.node.obj):
            _run_in(formed, request.node)
        yield formed


def _run_in(cluster: Cluster, item: pytest.Function) -> None:
    test = item.obj

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        cluster.run(test(*args, **kwargs))

    item.obj = run
    # Plugins for async tests have methods of their own here, which would look for a coroutine.
    item.runtest = functools.partial(pytest.Function.runtest, item)  # type: ignore[method-assign]  # of this one
