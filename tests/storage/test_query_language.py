"""Queries are read as they are meant, and what can't be read is refused with its place and its reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine.model import WorkflowStatus
from orchestrator.storage import query_language
from orchestrator.storage.errors import QueryInvalid
from orchestrator.storage.query_fields import WORKFLOW_FIELDS, compiled
from orchestrator.storage.query_language import (
    All,
    AnyOf,
    Between,
    Comparison,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    parse,
    parse_sort,
)

NAME, ID, CORRELATION = (WORKFLOW_FIELDS[name] for name in ("workflowType", "workflowId", "correlationId"))
START, END, STATUS, PRIORITY = (WORKFLOW_FIELDS[name] for name in ("startTime", "endTime", "status", "priority"))


def read(query: str) -> Node | None:
    return parse(query, WORKFLOW_FIELDS)


@pytest.mark.parametrize(("query", "node"), [
    ("", None),
    ("  ", None),
    ("workflowType=order", Comparison(NAME, "=", "order")),
    ("workflowType = 'it''s'", Comparison(NAME, "=", "it's")),
    ('workflowType = "a ""b"" (c), d"', Comparison(NAME, "=", 'a "b" (c), d')),
    ("workflowType != order", Not(Comparison(NAME, "=", "order"))),
    ("workflowType <> order", Not(Comparison(NAME, "=", "order"))),
    ("workflowType = ord*", Like(NAME, ("ord", ""))),
    ("workflowType = '*a*b'", Like(NAME, ("", "a", "b"))),
    ("workflowType != *x", Not(Like(NAME, ("", "x")))),
    ("workflowType STARTS_WITH 'a*'", Like(NAME, ("a*", ""))),
    ("workflowType NOT STARTS_WITH a", Not(Like(NAME, ("a", "")))),
    ("workflowType < m", Comparison(NAME, "<", "m")),
    ("workflowType IN (a, 'b c',d*)", OneOf(NAME, ("a", "b c", "d*"))),
    ("correlationId IS NULL", IsNull(CORRELATION)),
    ("correlationId is not null", Not(IsNull(CORRELATION))),
    ("startTime>1700000000000", Comparison(START, ">", 1_700_000_000_000)),
    ("startTime >= 2023-11-14", Comparison(START, ">=", 1_699_920_000_000)),
    ("startTime <= 2023-11-14T22:13:20.5Z", Comparison(START, "<=", 1_700_000_000_500)),
    ("startTime = '2023-11-14 23:13:20+01:00'", Comparison(START, "=", 1_700_000_000_000)),
    ("startTime BETWEEN 5 AND 7", Between(START, 5, 7)),
    ("priority not between -1 and 5", Not(Between(PRIORITY, -1, 5))),
    ("status = running", Comparison(STATUS, "=", int(WorkflowStatus.RUNNING))),
    ("status IN (FAILED,TIMED_OUT)", OneOf(STATUS, (int(WorkflowStatus.FAILED), int(WorkflowStatus.TIMED_OUT)))),
    ("status = comp*", OneOf(STATUS, (int(WorkflowStatus.COMPENSATING), int(WorkflowStatus.COMPLETED)))),
    ("status = X*", OneOf(STATUS, ())),
    ("status = *", OneOf(STATUS, tuple(map(int, WorkflowStatus)))),
])
def test_conditions(query: str, node: Node | None) -> None:
    assert read(query) == node


@pytest.mark.parametrize(("query", "node"), [
    ("A AND B", "A&B"), ("A OR B AND C", "A|(B&C)"), ("(A OR B) AND C", "(A|B)&C"), ("NOT A AND B", "!A&B"),
    ("NOT (A AND B)", "!(A&B)"), ("not not A", "!!A"), ("A and B and C", "A&B&C"), ("((A))", "A"),
])
def test_and_is_stronger_than_or_and_not_than_both(query: str, node: str) -> None:
    spelled = re.sub(r"\b([ABC])\b", r"workflowId = \1", query)
    assert _shape(read(spelled)) == node


def _shape(node: Node | None, inside: bool = False) -> str:
    match node:
        case All(parts) | AnyOf(parts):
            joined = ("&" if isinstance(node, All) else "|").join(_shape(part, inside=True) for part in parts)
            return f"({joined})" if inside else joined
        case Not(part):
            return "!" + _shape(part, inside=True)
        case Comparison(_, _, value):
            return str(value).upper()
    raise AssertionError(node)


@pytest.mark.parametrize(("query", "message"), [
    ("color = red", "at 1: there is no field 'color'; there are compensation, correlationId,"),
    ("workflowId = a AND colour = b", "at 20: there is no field 'colour'"),
    ("workflowId", "at 11: a comparison, IN, BETWEEN, STARTS_WITH or IS NULL is missing, there is the end"),
    ("workflowId =", "at 13: a value is missing, there is the end"),
    ("workflowId = a b", "at 16: AND, OR or the end is missing, there is 'b'"),
    ("(workflowId = a", "at 16: ')' is missing, there is the end"),
    ("workflowId = a)", "at 15: AND, OR or the end is missing, there is ')'"),
    ("workflowId = 'a", "at 13: \"'a\" can't be read; is a quote missing?"),
    ("workflowId IN ()", "at 16: a value is missing, there is ')'"),
    ("workflowId IN (a", "at 17: ',' or ')' is missing, there is the end"),
    ("workflowId IN a", "at 15: '(' is missing, there is 'a'"),
    ("workflowId NOT = a", "at 16: IN, BETWEEN or STARTS_WITH is missing"),
    ("workflowId BETWEEN a", "at 21: AND is missing"),
    ("workflowId IS a", "at 15: NULL is missing"),
    ("AND workflowId = a", "at 1: the name of a field is missing, there is 'AND'"),
    ("'workflowId' = a", "at 1: the name of a field is missing"),
    ("workflowId = ''", "at 14: nothing is equal to an empty text; say workflowId IS NULL"),
    ("status = BORED", "at 10: status is one of RUNNING, PAUSED, COMPENSATING, COMPLETED,"),
    ("status > RUNNING", "at 10: the values of status have no order"),
    ("status BETWEEN RUNNING AND FAILED", "at 16: the values of status have no order"),
    ("status STARTS_WITH R", "at 20: status is no text"),
    ("priority = high", "at 12: priority is a number, not 'high'"),
    ("priority = 99999999999999999999", "at 12: priority is a number"),
    ("startTime > yesterday", "at 13: 'yesterday' is no time: say milliseconds since 1970, or as in"),
    ("workflowId = " + "a*" * 9, "a value may have 8 wildcards"),
])
def test_what_cannot_be_read_is_refused_at_its_place(query: str, message: str) -> None:
    with pytest.raises(QueryInvalid) as refused:
        read(query)
    assert message in str(refused.value)


@pytest.mark.parametrize(("query", "message"), [
    ("workflowId = " + "a" * 4_000, "4013 characters; the limit is 4000"),
    ("(" * 40 + "workflowId = a" + ")" * 40, "nested deeper than 32"),
    ("NOT " * 40 + "workflowId = a", "nested deeper than 32"),
    (" OR ".join(["version=1"] * 101), "more than 100 conditions"),
    (f"version IN ({','.join(['1'] * 1_001)})", "more than 1000 values"),
])
def test_a_query_has_limits(query: str, message: str) -> None:
    with pytest.raises(QueryInvalid, match=message):
        read(query)


@pytest.mark.parametrize(("sort", "field", "descending"), [
    ("endTime:DESC", END, True), ("endTime:asc", END, False), ("endTime", END, False),
    (" workflowType : DESC ", NAME, True),
])
def test_a_sort_has_a_field_and_a_direction(sort: str, field: object, descending: bool) -> None:
    assert parse_sort(sort, WORKFLOW_FIELDS) == (field, descending)


@pytest.mark.parametrize(("sort", "message"), [
    ("color:ASC", "there is no field 'color'"), ("endTime:UP", "the direction of endTime is ASC or DESC, not 'UP'"),
    ("taskId:ASC", "can't sort by taskId: an execution has many"),
])
def test_a_sort_that_cannot_be_is_refused(sort: str, message: str) -> None:
    with pytest.raises(QueryInvalid) as refused:
        parse_sort(sort, WORKFLOW_FIELDS)
    assert message in str(refused.value)
    assert parse_sort(" ", WORKFLOW_FIELDS) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=80) | st.text(alphabet="workflowId=<>!()',\"* ANDORNTI;-%", max_size=80))
def test_any_text_is_read_or_refused(query: str) -> None:
    """Nothing else is raised, whatever is written; and no part of a value becomes part of the statement."""
    try:
        node = read(query)
    except QueryInvalid:
        return
    if node is not None:
        sql, values = compiled(node)
        assert sql.count("?") == len(values)
        assert ";" not in sql
        assert "--" not in sql


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\x00" not in text))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_quoted_value_is_what_was_quoted(value: str) -> None:
    quoted = value.replace("'", "''")
    node = read(f"workflowId IN ('{quoted}')")
    assert node == OneOf(ID, (value,))
    assert compiled(node)[0].count("?") == 1
    assert query_language.VALUES_MAX >= 1
