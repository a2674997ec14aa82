"""The handlers, as a user would write them: hypercorn serves `app` in a process of its own.

`calls` has each step done by another service, `runs` does them itself; either way each result is in the journal before
the next step begins.
"""

from __future__ import annotations

from typing import Any

import restate

STEPS = ("first", "second", "third")

steps = restate.Service("Steps")
w3 = restate.Service("W3")


@steps.handler()
async def first(context: restate.Context, parcel: dict[str, Any]) -> dict[str, Any]:
    return parcel


@steps.handler()
async def second(context: restate.Context, parcel: dict[str, Any]) -> dict[str, Any]:
    return parcel


@steps.handler()
async def third(context: restate.Context, parcel: dict[str, Any]) -> dict[str, Any]:
    return parcel


async def step(parcel: dict[str, Any]) -> dict[str, Any]:
    return parcel


@w3.handler()
async def calls(context: restate.Context, parcel: dict[str, Any]) -> dict[str, Any]:
    for handler in (first, second, third):
        parcel = await context.service_call(handler, arg=parcel)
    return parcel


@w3.handler()
async def runs(context: restate.Context, parcel: dict[str, Any]) -> dict[str, Any]:
    for name in STEPS:
        parcel = await context.run_typed(name, step, parcel=parcel)
    return parcel


app = restate.app(services=[w3, steps])
