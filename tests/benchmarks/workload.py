"""What is executed, as a user would write it: needs nothing but the SDK."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_client import Workflow, task


@dataclass
class Parcel:
    """About 100 bytes of JSON."""

    number: int
    text: str = "x" * 72


@task()
async def first(parcel: Parcel) -> Parcel:
    return parcel


@task()
async def second(parcel: Parcel) -> Parcel:
    return parcel


@task()
async def third(parcel: Parcel) -> Parcel:
    return parcel


TASKS = (first, second, third)

W3 = Workflow("bench-w3", version=1, input=Parcel)
W3.returns(number=W3.step(third, W3.step(second, W3.step(first, W3.input))).number)

W1 = Workflow("bench-w1", version=1, input=Parcel)
W1.returns(number=W1.step(first, W1.input).number)
