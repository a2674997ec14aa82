"""What a script means: its value, `$`, what comes out as JSON, and what is told when it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.integrations.sandbox.javascript import JavaScript
from orchestrator.integrations.sandbox.protocol import MIB, Answer, Limits, Verdict

TIME_MS = 10_000
OUTPUT_BYTES = Limits().output_bytes


_JAVASCRIPT = JavaScript(32 * MIB, OUTPUT_BYTES)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@pytest.fixture
def javascript() -> JavaScript:
    return _JAVASCRIPT


def evaluate(javascript: JavaScript, source: str, input: Any = None, *, body: bool = False) -> Answer:
    text = input if isinstance(input, bytes) else json.dumps(input or {}).encode()
    return javascript.evaluate(source, text, body=body, time_ms=TIME_MS)


def value(javascript: JavaScript, source: str, input: Any = None, *, body: bool = False) -> Any:
    answer = evaluate(javascript, source, input, body=body)
    assert answer.verdict is Verdict.VALUE, answer
    return json.loads(answer.value)


def error(javascript: JavaScript, source: str, input: Any = None, *, body: bool = False) -> str:
    answer = evaluate(javascript, source, input, body=body)
    assert answer.verdict is Verdict.ERROR, answer
    return answer.message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("$.value * 2", 84),
        ("function e() { if ($.value == 42) { return {r: 'A'} } else { return {r: 'B'} } } e();", {"r": "A"}),
        ("(function () {\n  return $.value + 1;\n})();", 43),
        ("if ($.loop['iteration'] < $.value) { true; } else { false; } ", True),
        ("if ($.value > 100) {true} else {false}", False),
        ("const a = 1; if (a == 1) { 'one'; }", "one"),
        ("({ status: 'confirmed', when: $.value })", {"status": "confirmed", "when": 42}),
        ("let s = 0; for (const x of $.values) { s += x; } s", 6),
        ("$.values.reduce((sum, x) => sum + x, 0)", 6),
        ("`${$.name}!`", "Ada!"),
        ("$.nothing?.deep ?? 'none'", "none"),
        ("function e() { return $.value; }", None),
        ("", None),
        ("with ($) { value }", 42),
        ("var x = 5; this.x", 5),
    ],
)
def test_a_script_has_the_value_of_its_last_statement(javascript: JavaScript, source: str, expected: Any) -> None:
    given = {"value": 42, "values": [1, 2, 3], "name": "Ada", "loop": {"iteration": 2}}
    assert value(javascript, source, given) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return $.number - 1;", 4),
        ("if ($.number == 5) { return {t: true} } else { return {t: false} }", {"t": True}),
        ("var i = 10; return i + $.number // and so on", 15),
        ("return", None),
        # As in Conductor, where it is the body of a function, too.
        ("$.number - 1", None),
        ("function e() { return {t: true}; } e();", None),
    ],
)
def test_a_body_has_the_value_that_it_returns(javascript: JavaScript, source: str, expected: Any) -> None:
    assert value(javascript, source, {"number": 5}, body=True) == expected


def test_a_script_that_is_no_body_must_not_return(javascript: JavaScript) -> None:
    assert error(javascript, "return 1") == "SyntaxError: return not in a function (line 1)"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1.0", b"1"),
        ("0.1 + 0.2", b"0.30000000000000004"),
        ("2 ** 53", b"9007199254740992"),
        ("-0", b"0"),
        ("[NaN, Infinity, -Infinity]", b"[null,null,null]"),
        ("undefined", b"null"),
        ("({a: undefined, b: [undefined, , 1]})", b'{"a":null,"b":[null,null,1]}'),
        ("(() => 1)", b"null"),
        ("({f: () => 1, s: Symbol('s'), x: 1})", b'{"x":1}'),
        ("new Date(0)", b'"1970-01-01T00:00:00.000Z"'),
        ("new Map([['a', 1], [2, new Set([1, 'x'])]])", b'{"2":[1,"x"],"a":1}'),
        ("12345678901234567890n", b"12345678901234567890"),
        ("({id: BigInt('9223372036854775807')})", b'{"id":9223372036854775807}'),
        ("'\\u00e9\\ud83d\\ude00'", '"é😀"'.encode()),
        ("'\\ud83d'", b'"\\ufffd"'),
        ("({'\\ude00a': 'x\\ud800'})", b'{"\\ufffda":"x\\ufffd"}'),
        ("'\\\\ud800'", b'"\\\\ud800"'),
        ("'a\\0b'", b'"a\\u0000b"'),
        ("new String('a')", b'"a"'),
    ],
)
def test_values_come_out_as_json(javascript: JavaScript, source: str, expected: bytes) -> None:
    """Whole numbers stay integers, what JSON has no number for is null, and no half of a surrogate pair is left."""
    assert evaluate(javascript, source).value == expected


def test_numbers_come_in_as_the_language_has_them(javascript: JavaScript) -> None:
    """Beyond 2^53 the nearest double: the last digits of a longer integer are lost."""
    assert evaluate(javascript, "$.n", b'{"n":9007199254740993}').value == b"9007199254740992"
    assert evaluate(javascript, "$.n", b'{"n":9007199254740991}').value == b"9007199254740991"
    assert evaluate(javascript, "$.n", b'{"n":5.0}').value == b"5"


def test_half_a_surrogate_pair_of_the_input_is_a_replacement_character(javascript: JavaScript) -> None:
    given = rb'{"a":"\ud800x","b":"\uD83D\uDE00","c":"\\ud800"}'
    assert value(javascript, "[$.a, $.b, $.c]", given) == ["\ufffdx", "😀", "\\ud800"]


@given(ANY_JSON)
def test_json_goes_through_unchanged(document: Any) -> None:
    text = json.dumps({"a": document}).encode()
    for source in ("$.a", "if (false) $.a.size(); $.a"):  # the second one with Java's methods
        answer = _JAVASCRIPT.evaluate(source, text, body=False, time_ms=TIME_MS)
        assert json.loads(answer.value, parse_int=float) == document  # numbers are doubles, also whole ones


def test_the_input_is_the_scripts_own(javascript: JavaScript) -> None:
    assert value(javascript, "$.order.region = 'x'; $.order", {"order": {"id": 1}}) == {"id": 1, "region": "x"}


def test_a_key_of_the_input_is_no_prototype(javascript: JavaScript) -> None:
    given = b'{"a":{"__proto__":{"admin":true}}}'
    assert value(javascript, "[$.a.admin === undefined, ({}).admin === undefined]", given) == [True, True]
    assert value(javascript, "$.a.size(); [$.a.admin === undefined, Object.keys($.a)]", given) == [True, ["__proto__"]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n\nfoo.bar", "ReferenceError: foo is not defined (line 3)"),
        ("$.nothing.x", "TypeError: cannot read property 'x' of undefined (line 1)"),
        ("function f() {\n  throw new Error('in f');\n}\nf()", "Error: in f (line 2)"),
        ("[1].forEach(function (x) {\n foo(x); })", "ReferenceError: foo is not defined (line 2)"),
        ("throw 'a text'", "a text"),
        ("throw {code: 5}", '{"code":5}'),
        ("throw undefined", "undefined"),
        ("throw {toJSON() { throw 1 }}", "it has thrown what can't be shown"),
        ("Promise.resolve(1)", "TypeError: the result is a promise, and nothing waits for it"),
        ("const a = {}; a.a = a; a", "TypeError: circular reference"),
        ("throw new Error('\\ud800')", "Error: \ufffd (line 1)"),
        ("Java.type('java.lang.System')", "ReferenceError: Java is not defined (line 1)"),
    ],
)
def test_what_a_script_throws_is_told(javascript: JavaScript, source: str, message: str) -> None:
    assert error(javascript, source) == message


def test_lines_of_a_body_are_its_own(javascript: JavaScript) -> None:
    assert error(javascript, "\n\nreturn foo", body=True) == "ReferenceError: foo is not defined (line 3)"


def test_a_long_message_is_cut(javascript: JavaScript) -> None:
    message = error(javascript, "throw new Error('x'.repeat(300000) + Math.random())")
    assert message.startswith("Error: xxx") and len(message) <= 1000


def test_endless_recursion_is_an_error(javascript: JavaScript) -> None:
    assert "call stack" in error(javascript, "(function f() { f() })()")
    assert "call stack" in error(javascript, "JSON.parse('['.repeat(1000000))")
    assert "call stack" in error(javascript, "let x = 1; for (let i = 0; i < 100000; i++) x = [x]; x")
    assert "call stack" in error(javascript, "(" * 100_000)


def test_a_result_that_is_too_large_is_refused(javascript: JavaScript) -> None:
    assert evaluate(javascript, f"'x'.repeat({OUTPUT_BYTES - 2})").verdict is Verdict.VALUE
    assert evaluate(javascript, f"'x'.repeat({OUTPUT_BYTES - 1})").verdict is Verdict.TOO_LARGE
    # In bytes, not in characters.
    assert evaluate(javascript, f"'é'.repeat({OUTPUT_BYTES // 2})").verdict is Verdict.TOO_LARGE


def test_a_string_in_pieces_comes_out_whole(javascript: JavaScript) -> None:
    """The engine joins long strings only when it has to."""
    given = {"a": "x" * 100_000}
    assert value(javascript, "$.a + $.a.length", given) == given["a"] + "100000"
    assert value(javascript, "let s = ''; for (let i = 0; i < 9999; i++) s += 'abc' + i; s.length", given) > 29_997


def test_memory_is_bounded(javascript: JavaScript) -> None:
    for source in (
        "const a = []; while (true) a.push(new Array(1000).fill(1))",
        "new Array(1e9).fill(0)",
        "'x'.repeat(2 ** 29)",
        "let s = 'x'.repeat(1e6), a = []; for (;;) a.push(s + a.length).toString()",
    ):
        assert evaluate(javascript, source).verdict is Verdict.MEMORY


def test_null_is_what_an_engine_without_memory_throws(javascript: JavaScript) -> None:
    answer = evaluate(javascript, "throw null")
    assert answer == Answer(Verdict.MEMORY, message="out of memory, or null was thrown")


def test_time_is_bounded(javascript: JavaScript) -> None:
    for source in (
        "while (true) {}",
        "for (;;) { try { while (true) {} } finally { continue } }",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
    ):
        answer = javascript.evaluate(source, b"{}", body=False, time_ms=50)
        assert answer == Answer(Verdict.TIME, message="it took longer than 50 ms")


POLLUTIONS = [
    "Object.prototype.polluted = 1; Array.prototype.polluted = 1; 1",
    "globalThis.leftBehind = 1; var alsoLeft = 2; function left() {} 1",
    "JSON.stringify = () => 'mine'; JSON.parse = () => 5; 1",
    "Object.prototype.toJSON = () => 'mine'; Array.prototype.map = null; 1",
    "Object.freeze(Object.prototype); Object.freeze(globalThis); 1",
    "Object.defineProperty(Object.prototype, 'get', {value: 1}); 1",
    "RegExp.prototype.exec = String.prototype.toWellFormed = Function.prototype.call = () => 'mine'; 1",
    "$.m.get('k'); $.m.size(); 1",
]


@pytest.mark.parametrize("pollution", POLLUTIONS)
def test_no_script_sees_what_another_has_left(javascript: JavaScript, pollution: str) -> None:
    evaluate(javascript, pollution, {"m": {"k": 1}})
    probe = """
        [({}).polluted, [].polluted, typeof leftBehind, typeof alsoLeft, typeof left,
         JSON.stringify({a: [1].map(x => x)}), Object.isFrozen(globalThis), ({}).get, $.m.size,
         (() => { globalThis.own = 1; return own })()]
    """
    assert value(javascript, probe, {"m": {}}) == [
        None, None, "undefined", "undefined", "undefined", '{"a":[1]}', False, None, None, 1]


@pytest.mark.parametrize("pollution", POLLUTIONS)
def test_a_script_that_replaces_the_language_still_has_its_value(javascript: JavaScript, pollution: str) -> None:
    if "toJSON" not in pollution:  # which is how the language lets it choose another
        assert value(javascript, pollution, {"m": {"k": 1}}) == 1


def test_nothing_of_the_machine_is_there(javascript: JavaScript) -> None:
    names = "std os require process fetch XMLHttpRequest setTimeout WebAssembly Java load quit Deno bjson".split()
    assert value(javascript, "[" + ",".join(f"typeof {name}" for name in names) + "]") == ["undefined"] * len(names)
    assert "promise" in error(javascript, "import('fs')")


def test_the_console_is_quiet_and_time_and_chance_work(javascript: JavaScript) -> None:
    assert value(javascript, "console.log('x'); console.error(1, 2); 1") == 1
    assert value(javascript, "Date.now() > 1.6e12 && Math.random() < 1") is True


@pytest.mark.parametrize(
    ("source", "body", "message"),
    [
        ("$.a + 1", False, ""),
        ("if ($.x) { true } else { false }", False, ""),
        ("foo.bar.baz()", False, ""),
        ("while (true) {}", False, ""),
        ("throw 1", False, ""),
        ("return 1", True, ""),
        ("'use strict'; let a = 1; a", False, ""),
        ("return 1", False, "SyntaxError: return not in a function (line 1)"),
        ("1 +", False, "SyntaxError: unexpected token in expression: '' (line 1)"),
        ("\nif (", False, "SyntaxError: unexpected token in expression: '' (line 2)"),
        ("let a; let a", False, "SyntaxError: invalid redefinition of lexical identifier (line 1)"),
        ("1 +", True, "SyntaxError: unexpected token in expression: '}' (line 1)"),
        ("} {", True, "SyntaxError: Unexpected token '{' (line 1)"),
    ],
)
def test_a_check_parses_and_runs_nothing(javascript: JavaScript, source: str, body: bool, message: str) -> None:
    answer = javascript.check(source, body=body, time_ms=TIME_MS)
    assert answer == Answer(Verdict.ERROR if message else Verdict.VALUE, message=message)
