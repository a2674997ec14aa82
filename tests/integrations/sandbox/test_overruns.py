"""Whatever is evaluated: what takes too long or too much is ended, that is said, and the next one is not hurt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.engine.expressions import DEPTH_MAX
from orchestrator.integrations.sandbox.protocol import MIB, Limits, Query, Script, Validation, Verdict
from orchestrator.integrations.sandbox.sandbox import Sandbox
from tests.integrations.sandbox.processes import DEAF, ENDLESS, ready

LIMITS = Limits(time_ms=100_000, memory_bytes=48 * MIB)
SHORT_MS = 200


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(size=1, limits=LIMITS)
    yield made
    await made.close()


CATASTROPHE = b'{"a":"' + b"a" * 40 + b'b"}'

TOO_LONG = {
    "a loop": Script(ENDLESS, b"{}"),
    "a loop in a body": Script(ENDLESS, b"{}", body=True),
    "a loop that catches": Script("for (;;) { try { while (true) {} } finally { continue } }", b"{}"),
    "a call that can't be interrupted": Script(DEAF, b"{}"),
    "a getter of the result": Script("({get a() { while (true) {} }})", b"{}"),
    "an error's text": Script("throw {toJSON() { while (true) {} }}", b"{}"),
    "a regular expression": Script("/^(a+)+$/.test($.a)", CATASTROPHE),
    "a query": Query("def f: f; f", b"{}"),
    "a query without results": Query("repeat(empty)", b"{}"),
    "a query's reduction": Query("reduce range(1e12) as $i (0; . + 1)", b"{}"),
    "a schema's pattern": Validation('{"properties":{"a":{"pattern":"^(a+)+$"}}}', CATASTROPHE),
    "a schema's property names": Validation('{"patternProperties":{"^(a+)+$":{}}}', b'{"' + b"a" * 40 + b'b":1}'),
}


@pytest.mark.parametrize("request_", TOO_LONG.values(), ids=TOO_LONG.keys())
async def test_what_takes_too_long_is_ended(sandbox: Sandbox, request_: Script | Query | Validation) -> None:
    answer = await sandbox.evaluate(request_, SHORT_MS)
    assert answer.verdict is Verdict.TIME
    assert answer.message == f"it took longer than {SHORT_MS} ms"
    assert (await sandbox.script("$.a", b'{"a":1}')).value == b"1"


TOO_MUCH = {
    "arrays": (Script("const a = []; while (true) a.push(new Array(1000).fill(1))", b"{}"), Verdict.MEMORY),
    "one array": (Script("new Array(1e9).fill(1)", b"{}"), Verdict.MEMORY),
    "strings": (Script("const a = []; for (;;) a.push(('x' + a.length).repeat(1e5))", b"{}"), Verdict.MEMORY),
    "a string": (Script("'x'.repeat(2 ** 29)", b"{}"), Verdict.MEMORY),
    "bytes": (Script("new Uint8Array(2 ** 30)", b"{}"), Verdict.MEMORY),
    "a query's array": (Query("[limit(1e9; repeat(1))]", b"{}"), Verdict.CRASHED),
    "a query's string": (Query("\"x\" * 1e9", b"{}"), Verdict.CRASHED),
    "a query's recursion": (Query("def f: 1 + f; f", b"{}"), Verdict.CRASHED),
}


@pytest.mark.parametrize(("request_", "verdict"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
async def test_what_takes_too_much_is_ended(sandbox: Sandbox, request_: Script | Query, verdict: Verdict) -> None:
    answer = await sandbox.evaluate(request_)
    assert answer.verdict is verdict
    assert "memory" in answer.message
    assert (await sandbox.script("$.a", b'{"a":1}')).value == b"1"


async def test_memory_that_a_script_has_had_is_there_for_the_next() -> None:
    sandbox = Sandbox(size=1, limits=Limits(time_ms=100_000, memory_bytes=200 * MIB))
    for _ in range(3):
        assert (await sandbox.script("new Uint8Array(1.5e8).fill(1).length", b"{}")).value == b"150000000"
    await sandbox.close()


async def test_other_evaluations_go_on_beside_one_that_does_not_end() -> None:
    sandbox = Sandbox(size=2, limits=LIMITS)
    endless = asyncio.create_task(sandbox.script(ENDLESS, b"{}"))
    try:
        for number in range(50):
            assert (await sandbox.script("$.a + 1", b'{"a":%d}' % number)).value == b"%d" % (number + 1)
        assert not endless.done()
    finally:
        endless.cancel()
        await asyncio.wait([endless])
        await sandbox.close()


async def test_an_overrun_that_the_engine_notices_costs_no_process(sandbox: Sandbox) -> None:
    before = await ready(sandbox)
    answer = await sandbox.script("new Array(1e9).fill(1)", b"{}")
    assert answer.verdict is Verdict.MEMORY
    assert sandbox.pids == [before]


async def test_inputs_and_sources_are_bounded(sandbox: Sandbox) -> None:
    limits = sandbox.limits
    fits = b'{"a":"%s"}' % (b"x" * (limits.input_bytes - 8))
    for request in (Script("$.a.length", fits), Query(".a | length", fits), Validation("{}", fits)):
        assert (await sandbox.evaluate(request)).verdict is Verdict.VALUE
    for request in (Script("1", fits + b" "), Query("1", fits + b" "), Validation("{}", fits + b" ")):
        answer = await sandbox.evaluate(request)
        assert answer.verdict is Verdict.TOO_LARGE
        assert str(limits.input_bytes) in answer.message
    assert (await sandbox.script("1" + " " * (limits.source_bytes - 1), b"{}")).value == b"1"
    assert (await sandbox.script("1" + " " * limits.source_bytes, b"{}")).verdict is Verdict.TOO_LARGE


async def test_outputs_are_bounded(sandbox: Sandbox) -> None:
    most = sandbox.limits.output_bytes
    assert len((await sandbox.script(f"'x'.repeat({most - 2})", b"{}")).value) == most
    for request in (Script(f"'x'.repeat({most})", b"{}"), Query("repeat(1)", b"{}"), Query(f'"x" * {most}', b"{}")):
        answer = await sandbox.evaluate(request)
        assert answer.verdict is Verdict.TOO_LARGE
        assert str(most) in answer.message


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 1_000, 100_000])
async def test_depth_is_bounded_before_anybody_decodes_it(sandbox: Sandbox, levels: int) -> None:
    script = f"let x = 1; for (let i = 0; i < {levels}; i++) x = [x]; x"
    for request in (Script(script, b"{}"), Query(f"reduce range({levels}) as $i (0; [.])", b"{}")):
        assert (await sandbox.evaluate(request)).verdict in (Verdict.TOO_LARGE, Verdict.ERROR)
    assert (await sandbox.script(script.replace(str(levels), str(DEPTH_MAX)), b"{}")).verdict is Verdict.VALUE


@pytest.mark.parametrize("levels", [1_000, 100_000])
async def test_a_deep_input_is_an_error_at_worst(sandbox: Sandbox, levels: int) -> None:
    deep = b'{"a":' + b"[" * levels + b"]" * levels + b"}"
    for request in (Script("1", deep), Query("1", deep), Validation("{}", deep)):
        assert (await sandbox.evaluate(request)).verdict in (Verdict.VALUE, Verdict.ERROR)


async def test_half_of_a_surrogate_pair_in_a_script_is_no_character(sandbox: Sandbox) -> None:
    assert (await sandbox.script("'\ud800'", b"{}")).verdict is Verdict.ERROR
    assert (await sandbox.script("'é😀' + $.a", '{"a":"日本"}'.encode())).value == '"é😀日本"'.encode()
