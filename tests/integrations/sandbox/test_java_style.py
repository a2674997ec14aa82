"""Scripts that were written for Java's collections work, and those that were not are not harmed by it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.integrations.sandbox.javascript import JavaScript
from orchestrator.integrations.sandbox.protocol import MIB, Limits, Verdict

INPUT = {
    "list": [1, 2, {"a": [3]}], "empty": [], "m": {"k": "v", "n": None}, "s": "abc", "n": 5.5, "b": True,
    "sized": {"size": 7, "get": "got"},
}


@pytest.fixture(scope="module")
def javascript() -> JavaScript:
    return JavaScript(32 * MIB, Limits().output_bytes)


def value(javascript: JavaScript, source: str) -> Any:
    answer = javascript.evaluate(source, json.dumps(INPUT).encode(), body=False, time_ms=10_000)
    assert answer.verdict is Verdict.VALUE, answer
    return json.loads(answer.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("function getElement() { return $.list.get($.list.size() - 3); } getElement();", 1),
        ("$.list.get(2).a.get(0)", 3),
        ("$['list']['get'](1)", 2),
        ("$.list\n  .size()", 3),
        ("$.list?.size?.()", 3),
        ("[$.list.isEmpty(), $.empty.isEmpty(), $.m.isEmpty()]", [False, True, False]),
        ("[$.list.contains(2), $.list.contains(9), $.list.contains({a: [3]})]", [True, False, True]),
        ("[$.list.containsAll([1, 2]), $.list.containsAll([1, 9])]", [True, False]),
        ("$.list.add(4); $.list.add(0, 'first'); $.list", ["first", 1, 2, {"a": [3]}, 4]),
        ("$.empty.addAll($.list); $.empty.size()", 3),
        ("[$.list.remove(0), $.list.remove({a: [3]}), $.list]", [1, True, [2]]),
        ("[$.list.set(0, 'x'), $.list.get(0)]", [1, "x"]),
        ("$.list.subList(0, 2).size()", 2),
        ("let n = 0, it = $.list.iterator(); while (it.hasNext()) { it.next(); n++; } n", 3),
        ("$.list.clear(); $.list", []),
        ("$.list.toArray().length", 3),
        ("[$.m.get('k'), $.m.get('none')]", ["v", None]),
        ("[$.m.containsKey('n'), $.m.containsKey('toString'), $.m.containsValue('v')]", [True, False, True]),
        ("[$.m.getOrDefault('k', 1), $.m.getOrDefault('none', 1)]", ["v", 1]),
        ("[$.m.put('k', 1), $.m.put('new', 2), $.m]", ["v", None, {"k": 1, "n": None, "new": 2}]),
        ("[$.m.putIfAbsent('k', 1), $.m.putIfAbsent('n', 2), $.m.n]", ["v", None, 2]),
        ("$.m.putAll({x: 1}); $.m.size()", 3),
        ("[$.m.remove('k'), $.m]", ["v", {"n": None}]),
        ("$.m.clear(); $.m", {}),
        ("$.m.keySet().contains('k')", True),
        ("let r = []; for (const e of $.m.entrySet()) r.push(e.getKey() + '=' + e.getValue()); r", ["k=v", "n=null"]),
        ("$.m.values().size()", 2),
        ("$.m.equals({n: null, k: 'v'})", True),
        ("[$.s.equals('abc'), $.s.equalsIgnoreCase('ABC')]", [True, True]),
        ("[$.s.contains('b'), $.s.isEmpty()]", [True, False]),
        ("[$.n.intValue(), $.n.doubleValue(), $.b.booleanValue(), $.n.equals(5.5)]", [5, 5.5, True, True]),
        ("$.size()", 7),
        # Both ways in one script.
        ("$.list.get(0) + $.list[1] + $.list.length + $.m.size()", 8),
        ("$.m.get('k') === $.m.k && $.m['k'] === 'v'", True),
    ],
)
def test_methods_of_javas_collections_work(javascript: JavaScript, source: str, expected: Any) -> None:
    assert value(javascript, source) == expected


def test_an_index_out_of_bounds_is_an_error_as_it_is_there(javascript: JavaScript) -> None:
    answer = javascript.evaluate("\n$.list.get(3)", json.dumps(INPUT).encode(), body=False, time_ms=10_000)
    assert answer.message == "RangeError: index 3 is out of bounds for length 3 (line 2)"


@pytest.mark.parametrize(
    "probe",
    [
        "Object.keys($.m)",
        "JSON.stringify($)",
        "(() => { const seen = []; for (const k in $.m) seen.push(k); return seen })()",
        "(() => { const seen = []; for (const i in $.list) seen.push(i); return seen })()",
        "Object.entries($.m)",
        "({...$.m})",
        "[...$.list]",
        "Array.isArray($.list)",
        "$.list instanceof Array && $.m instanceof Object",
        "$.m.constructor === Object && $.list.constructor === Array",
        "$.list.map(x => typeof x)",
        "$.list.filter(x => x === 1).concat([2])",
        "Object.assign({}, $.m)",
        "$.m.hasOwnProperty('k') && !$.m.hasOwnProperty('size')",
        "$.list.indexOf(2)",
        "Object.keys($.sized).concat($.sized.size)",
        "'size' in {}",
        "[typeof ({}).size, typeof [].size, typeof ({}).get]",
        "Object.defineProperty({}, 'x', {value: 1, enumerable: true})",
        "new Map([['a', 1]]).get('a')",
        "String($.list)",
    ],
)
def test_they_change_nothing_of_the_language(javascript: JavaScript, probe: str) -> None:
    """The same with and without them: `size` and `get` are called by the second script, so that it has them."""
    assert value(javascript, f"$.m.size(); $.m.get('k'); {probe}") == value(javascript, probe)


@pytest.mark.parametrize("source", ["$.size", "$.m.get", "$.list.size", "'size' in $.m", "'get' in $.list", "$.s.get"])
def test_a_script_that_does_not_call_them_has_none(javascript: JavaScript, source: str) -> None:
    assert value(javascript, source) in (None, False)


def test_a_script_that_calls_one_has_that_one(javascript: JavaScript) -> None:
    """What differs then, and is said in DESIGN.md."""
    assert value(javascript, "$.m.size(); ['size' in $.m, 'get' in $.m]") == [True, False]
    assert value(javascript, "Object.values($.m); 'values' in $.m") is False


def test_the_data_win(javascript: JavaScript) -> None:
    assert value(javascript, "$.m.size() + $.sized.size") == 9
    assert value(javascript, "$.list.get(0); $.sized.get") == "got"
