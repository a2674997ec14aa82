"""jq: all results in order, numbers as they are written, and errors that say what is wrong with the query."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.integrations.sandbox.protocol import Limits, Verdict
from orchestrator.integrations.sandbox.queries import Queries

OUTPUT_BYTES = Limits().output_bytes


@pytest.fixture(scope="module")
def queries() -> Queries:
    return Queries(OUTPUT_BYTES)


def results(queries: Queries, source: str, input: bytes = b"{}") -> Any:
    answer = queries.evaluate(source, input)
    assert answer.verdict is Verdict.VALUE, answer
    return json.loads(answer.value)


def error(queries: Queries, source: str, input: bytes = b"{}") -> str:
    answer = queries.evaluate(source, input)
    assert answer.verdict is Verdict.ERROR, answer
    return answer.message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (".items | map(.id)", [[1, 2]]),
        (".items[] | .id", [1, 2]),
        ("empty", []),
        (".missing", [None]),
        ("{ total: ([.items[].id] | add) } # of all", [{"total": 3}]),
        (". as $in | $in.items | length", [2]),
        ("def double: . * 2; .items[].id | double", [2, 4]),
        ("first(.items[]), \"x\\(.items | length)\"", [{"id": 1}, "x2"]),
        ("try error(\"x\") catch .", ["x"]),
        ("limit(3; repeat(1))", [1, 1, 1]),
        ("[inputs]", [[]]),
        (".text | test(\"^a.c$\")", [True]),
    ],
)
def test_a_query_has_all_its_results(queries: Queries, source: str, expected: Any) -> None:
    assert results(queries, source, b'{"items":[{"id":1},{"id":2}],"text":"abc"}') == expected


def test_numbers_that_are_not_calculated_with_keep_their_digits(queries: Queries) -> None:
    given = b'{"id":12345678901234567890,"price":1.10}'
    assert queries.evaluate("{id, price}", given).value == b'[{"id":12345678901234567890,"price":1.10}]'
    assert queries.evaluate(".id + 0, 3 * 2, nan", given).value == b"[12345678901234567000,6,null]"


def test_half_a_surrogate_pair_is_a_replacement_character(queries: Queries) -> None:
    assert results(queries, ".a, .b", rb'{"a":"\ud800x","b":"\ud83d\ude00"}') == ["\ufffdx", "😀"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (".items | foo", "foo/0 is not defined at <top-level>, line 1, column 10"),
        (". |", "syntax error, unexpected end of file"),
        ("}", "syntax error"),
        ("1 as $x", "syntax error"),
        ("", "Top-level program not given"),
        ("$secret", "$secret is not defined"),
        ("error(\"mine\")", "mine"),
        ("1, error({code: 5})", "{\"code\": 5}"),
        ("\"mine\" | halt_error", "mine"),
        ("5 | halt_error(1)", "5"),
        (".[]", "Cannot iterate over number (5)"),
        ("import \"a\" as a; .", "module not found: a"),
        ("include \"/etc/passwd\"; .", "module not found: /etc/passwd"),
    ],
)
def test_errors_say_what_is_wrong(queries: Queries, source: str, message: str) -> None:
    assert error(queries, source, b"5").startswith(message)


def test_results_that_are_too_large_are_refused_as_they_come(queries: Queries) -> None:
    assert queries.evaluate("repeat(1)", b"{}").verdict is Verdict.TOO_LARGE
    assert queries.evaluate(f'"x" * {OUTPUT_BYTES}', b"{}").verdict is Verdict.TOO_LARGE
    assert results(queries, "limit(2; repeat(1))") == [1, 1]


def test_a_kept_query_starts_anew_each_time(queries: Queries) -> None:
    for source in (".a, error(\"x\")", "halt", "limit(1; .a, .b)", "input", "repeat(.a)"):
        first = queries.evaluate(source, b'{"a":1,"b":2}')
        assert queries.evaluate(source, b'{"a":1,"b":2}') == first
    assert results(queries, ".a", b'{"a":1}') == [1]
    assert results(queries, ".a", b'{"a":2}') == [2]


def test_more_queries_than_are_kept(queries: Queries) -> None:
    for _ in range(2):
        for number in range(150):
            assert results(queries, f".a + {number}", b'{"a":1}') == [number + 1]


def test_a_check_compiles_and_runs_nothing(queries: Queries) -> None:
    assert queries.check(".a | error").verdict is Verdict.VALUE
    assert queries.check("def f: f; f").verdict is Verdict.VALUE
    assert queries.check(".a |").message.startswith("syntax error")
