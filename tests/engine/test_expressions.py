"""Expressions: Conductor's rules by table, and what must hold for every value by search."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.expressions import (
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    PayloadInvalid,
    append_field,
    check_json,
    check_payload,
    compact,
    dump_string,
    fields_of,
    merge_objects,
    overlay_template,
    parse_template,
    put_if_absent,
    resolve,
    resolve_value,
    text_of,
    value_of,
)
from orchestrator.engine.expressions import texts as json_texts
from orchestrator.engine.expressions.paths import PathInvalid, follow, parse_path
from orchestrator.engine.expressions.template_model import Part, Reference


class Facts:
    """A scope of fixed texts, by "root.field"."""

    has_blobs = False

    def goes_into(self, value: bytes, reference: Reference) -> None:
        raise AssertionError("nothing here is kept outside the log")

    def writes_out(self, value: bytes, part: Part) -> None:
        raise AssertionError("nothing here is kept outside the log")

    def __init__(self, **facts: bytes) -> None:
        self._facts = facts

    def workflow(self, field: str) -> bytes | None:
        return self._facts.get(f"workflow_{field}")

    def task(self, reference: str, field: str, wanted: str = "") -> bytes | None:
        return self._facts.get(f"{reference}_{field}")

    def task_id(self) -> bytes | None:
        return self._facts.get("task_id")


FACTS = Facts(
    workflow_input=b'{"price":1.50,"big":123456789012345678901234567890,"list":[10,20,{"x":"deep"}],"i":1,'
    b'"text":"a\\"b\\u00e9","none":null,"yes":true,"order":{"id":"o-1", "a b":1},"ref":"list"}',
    workflow_variables=b'{"v":7}',
    workflow_status=b'"RUNNING"',
    charge_output=b'{"receipt":"r-1","items":[{"sku":"a","n":1},{"sku":"b"}],"nested":{"sku":"c"}}',
    charge_status=b'"COMPLETED"',
    step_input=b'{"amount":5}',
    task_id=b'"task-9"',
)

VALUES = [
    # One expression is the value, with its type and its own text.
    ('"${workflow.input.price}"', "1.50"),
    ('"${workflow.input.big}"', "123456789012345678901234567890"),
    ('"${workflow.input.yes}"', "true"),
    ('"${workflow.input.none}"', "null"),
    ('"${workflow.input.text}"', '"a\\"b\\u00e9"'),
    ('"${workflow.input.order}"', '{"id":"o-1", "a b":1}'),
    ('"${charge.output.receipt}"', '"r-1"'),
    ('"${ charge.output.receipt }"', '"r-1"'),
    ('"${charge.status}"', '"COMPLETED"'),
    ('"${workflow.variables}"', '{"v":7}'),
    ('"${CPEWF_TASK_ID}"', '"task-9"'),
    # Paths.
    ('"${workflow.input.list[0]}"', "10"),
    ('"${workflow.input.list[-1].x}"', '"deep"'),
    ('"${workflow.input.list[3]}"', "null"),
    ('"${workflow.input.list[-4]}"', "null"),
    ("\"${workflow.input['order']['a b']}\"", "1"),
    ("\"${workflow['input'].i}\"", "1"),
    ('"${workflow.input.order[0]}"', "null"),
    ('"${workflow.input.list.x}"', "null"),
    ('"${charge.output.items[*].sku}"', '["a","b"]'),
    ('"${charge.output.items.*.n}"', "[1]"),
    ('"${charge.output..sku}"', '["a","b","c"]'),
    ('"${charge.output.missing[*].sku}"', "[]"),
    # Functions at the end of a path.
    ('"${workflow.input.list.length()}"', "3"),
    ('"${workflow.input.order.size()}"', "2"),
    ('"${workflow.input.order.keys()}"', '["id","a b"]'),
    ('"${workflow.input.list.first()}"', "10"),
    ('"${charge.output..sku.length()}"', "3"),
    ('"${charge.output.missing[*].sku.length()}"', "0"),
    ('"${charge.output.missing.length()}"', "null"),
    ('"${workflow.input.text.length()}"', "null"),
    # What is missing is null.
    ('"${workflow.input.nope.nope}"', "null"),
    ('"${charge.input.x}"', "null"),
    ('"${later.output.x}"', "null"),
    ('"${workflow.correlationId}"', "null"),
    # Embedded.
    ('"id ${workflow.input.order.id}!"', '"id o-1!"'),
    ('"${workflow.input.i}${workflow.input.i}"', '"11"'),
    ('"${workflow.input.price} EUR"', '"1.50 EUR"'),
    ('"is ${workflow.input.none} ${workflow.input.yes}"', '"is null true"'),
    ('"q ${workflow.input.text}"', '"q a\\"b\\u00e9"'),
    ('"o ${workflow.input.order}"', '"o {\\"id\\":\\"o-1\\",\\"a b\\":1}"'),
    ('"\\"${workflow.input.i}\\n"', '"\\"1\\n"'),
    # Empty, nested, escaped.
    ('"${}"', '""'),
    ('"a${}b"', '"ab"'),
    ('"${workflow.input.list[${workflow.input.i}]}"', "20"),
    ('"${workflow.input.${workflow.input.ref}[${workflow.input.i}]}"', "20"),
    ('"${charge.${workflow.input.ref}}"', "null"),
    ('"${workflow.input.list[${workflow.input.none}]}"', "null"),
    ('"x ${workflow.input.list[${workflow.input.i}]}"', '"x 20"'),
    ('"$${x}"', '"${x}"'),
    ('"$${x} ${workflow.input.i}"', '"${x} 1"'),
    ('"$${"', '"${"'),
    ('"cost $5 {a}"', '"cost $5 {a}"'),
    ('"\\u0024{workflow.input.i}"', "1"),
    # Structure is walked, keys are not.
    (
        '{ "${charge.output}" : [ 1.0, "${workflow.input.i}" ], "b": {"c": "$"}, "e": {}, "f": "${}" }',
        '{"${charge.output}":[1.0,1],"b":{"c":"$"},"e":{},"f":""}',
    ),
    ('{"a": 1.10, "b": [ ]}', '{"a":1.10,"b":[]}'),
]


@pytest.mark.parametrize(("template", "value"), VALUES)
def test_values(template: str, value: str) -> None:
    assert resolve(parse_template(template.encode(), "input"), FACTS).decode() == value


def test_the_record_of_a_step_is_a_root_of_compensations() -> None:
    template = parse_template(b'{"refund":"${step.input.amount}","out":"${step.output}"}', "input", step=True)
    assert resolve(template, FACTS) == b'{"refund":5,"out":null}'
    assert template.uses_step
    assert template.references == ()


def test_a_template_says_what_it_refers_to() -> None:
    raw = b'["${a.output.${b.output.x}}","${a.status}","${workflow.input.x}","c.d $${e.output}","${f.input}"]'
    template = parse_template(raw, "")
    assert template.references == ("b", "a", "f")
    assert not template.uses_variables
    assert template.workflow_fields == ("input",)
    assert template.reads_task_input
    assert parse_template(b'"x${workflow.variables.a[${b.output.i}]}"', "").uses_variables
    assert parse_template(b"\"\\u0024{workflow['status']}\"", "").workflow_fields == ("status",)


@pytest.mark.parametrize(
    ("template", "reads"),
    [
        ('"${a.input.x}"', True),
        ('"${a.${b.output}}"', True),
        ('"${a[${b.output}]}"', True),
        ('"${a.input.${b.output}}"', True),
        ('"${a.output.input}"', False),
        ('"${a.output.${b.output}}"', False),
        ('"${workflow.input.${b.output}}"', False),
    ],
)
def test_a_template_says_whether_it_may_read_inputs_of_tasks(template: str, reads: bool) -> None:
    assert parse_template(template.encode(), "").reads_task_input is reads


REFUSED = [
    ('{"a":["${workflow.inputs.x}"]}', DefinitionInvalid, "p.a[0]", "'workflow' has no field 'inputs'"),
    ('{"a":{"b":"${charge.outputs.x}"}}', DefinitionInvalid, "p.a.b", "'charge' has no field 'outputs'"),
    ('"${nobody.output.x}"', DefinitionInvalid, "p", "no task with the reference name 'nobody'"),
    ('"x ${charge.output[${nobody.output}]}"', DefinitionInvalid, "p", "no task with the reference name 'nobody'"),
    ('"${${workflow.input.ref}.output}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${ch${workflow.input.ref}.output}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${workflow.${workflow.input.ref}}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${ workflow.${workflow.input.ref}}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${workflow .${workflow.input.ref}.x}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${workflow.inputs.${workflow.input.ref}}"', DefinitionInvalid, "p", "no field 'inputs'"),
    ('"${charge.outputs.${workflow.input.ref}}"', DefinitionInvalid, "p", "no field 'outputs'"),
    ('"${nobody.${workflow.input.ref}}"', DefinitionInvalid, "p", "no task with the reference name 'nobody'"),
    ('"${nobody[${workflow.input.ref}]}"', DefinitionInvalid, "p", "no task with the reference name 'nobody'"),
    ('"${step.${workflow.input.ref}}"', DefinitionInvalid, "p", "can't be computed"),
    ('"${step.input.${workflow.input.ref}}"', DefinitionInvalid, "p", "'step' can only be referred to"),
    ("\"${workflow['variables'].${workflow.input.ref}}\"", DefinitionInvalid, "p", "can't be computed"),
    ('"${step.input.x}"', DefinitionInvalid, "p", "'step' can only be referred to"),
    ('"a ${charge.output"', DefinitionInvalid, "p", "never closed"),
    ('"${charge.output.}"', DefinitionInvalid, "p", "followed by a name"),
    ('"${charge.output[x]}"', DefinitionInvalid, "p", "followed by a number"),
    ("\"${charge.output['x'}\"", DefinitionInvalid, "p", "followed by a number"),
    ('"${charge.output[0]x}"', DefinitionInvalid, "p", "missing after"),
    ('"${[0].output}"', DefinitionInvalid, "p", "must begin with"),
    ('"${charge.output[?(@.x>1)]}"', DefinitionUnimplemented, "p", "filters"),
    ('"${charge.output[0:2]}"', DefinitionUnimplemented, "p", "filters"),
    ('"${charge.output.x.sum()}"', DefinitionUnimplemented, "p", "functions"),
    ('"${charge.output.length().x}"', DefinitionInvalid, "p", "ends with its function"),
    ('"${charge..a..b}"', DefinitionUnimplemented, "p", "only one '..'"),
    ('"${charge}"', DefinitionUnimplemented, "p", "alone can't be referred to"),
    ('"${HOME}"', DefinitionUnimplemented, "p", "environment"),
    ('"${workflow.env.HOME}"', DefinitionInvalid, "p", "secrets and env are named in the inputParameters of"),
    ('"${workflow.secrets.KEY}"', DefinitionInvalid, "p", "secrets and env are named in the inputParameters of"),
    ("[" * 65 + "]" * 65, DefinitionInvalid, "p", "nested deeper than 64"),
    ('"' + "${charge.output." * 9 + "x" + "}" * 9 + '"', DefinitionInvalid, "p", "nested 8 deep"),
    ("[" + ",".join(['"${charge.output}"'] * 1001) + "]", DefinitionInvalid, "p[1000]", "1000 expressions"),
    ("{", DefinitionInvalid, "p", "not valid JSON"),
]


@pytest.mark.parametrize(("template", "error", "path", "message"), REFUSED)
def test_what_can_never_be_resolved_is_refused(
    template: str, error: type[DefinitionError], path: str, message: str
) -> None:
    with pytest.raises(error) as refused:
        parse_template(template.encode(), "p", frozenset({"charge"}))
    assert refused.value.path == path
    assert message in refused.value.message


def test_defaults_take_the_place_of_what_is_absent_or_null() -> None:
    parameters = parse_template(b'{"a":"${workflow.input.none}","b":"${workflow.input.i}","c":null,"d":1.0}', "")
    defaults = parse_template(
        b'{"a":2.50,"b":9,"c":"${workflow.input.i}","e":"${workflow.input.price}","f":"${no.output}"}', ""
    )
    assert resolve(overlay_template(parameters, defaults), FACTS) == b'{"a":2.50,"b":1,"c":1,"d":1.0,"e":1.50,"f":null}'
    assert overlay_template(parameters, defaults).references == ("no",)
    assert overlay_template(parameters, parse_template(b"{}", "")) is parameters
    constant = overlay_template(parse_template(b'{"a":null}', ""), parse_template(b'{"a":1.0}', ""))
    assert (constant.source, constant.defaults) == (b'{"a":1.0}', ())
    huge = parse_template(json.dumps({str(key): "${workflow.input}" for key in range(900)}).encode(), "")
    facts = Facts(workflow_input=b'"' + b"x" * 200_000 + b'"')
    assert len(resolve(overlay_template(parameters, huge), facts)) < PAYLOAD_BYTES_MAX + 210_000


def test_values_as_python_values_keep_the_text_of_decimals() -> None:
    value: Any = resolve_value(parse_template(b'{"a":"${workflow.input.price}","b":[1,null,true,"x"]}', ""), FACTS)
    assert bytes(value["a"]) == b"1.50"
    assert value["b"] == [1, None, True, "x"]


def test_what_expressions_add_is_bounded() -> None:
    facts = Facts(workflow_input=b'"' + b"x" * 200_000 + b'"')
    for template in (json.dumps(["${workflow.input}"] * 900), json.dumps("${workflow.input} " * 900)):
        value = resolve(parse_template(template.encode(), ""), facts)
        assert PAYLOAD_BYTES_MAX < len(value) < PAYLOAD_BYTES_MAX + 210_000
        check_json(value)


# --- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"{"', "not a JSON object"),
        (b'{"a":1', "not valid JSON"),
        (b'{"a":1} {}', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":"\x01"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'{"a":"\\udc00"}', "not valid JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
        (b'{"a":' * 50_000, "deeper than 64"),
        (b'{"b":[{},{}],"a":' + b'[{"a":' * 32 + b"0" + b"}]" * 32 + b"}", "deeper than 64"),
        (b'{"a":"' + b"x" * PAYLOAD_BYTES_MAX + b'"}', "the limit is 262144"),
    ],
)
def test_what_is_no_payload_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(PayloadInvalid, match=message):
        check_payload(text)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b' {"a": 1e999} \n',
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"b":[' + b'{"c":[]},' * 1_000 + b'{}],"a":' + b'[{"a":' * 31 + b"[]" + b"}]" * 31 + b"}",
        b'{"a":"' + b"[{" * 100 + b'\\"[["}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":' + b"9" * 6000 + b"}",
    ],
)
def test_payloads(text: bytes) -> None:
    check_payload(text)


def test_objects_are_merged_without_reformatting() -> None:
    assert merge_objects(b'{"a":1.0,"b":{"x":1}}', b'{"b":2.50,"c":[ ]}') == b'{"a":1.0,"b":2.50,"c":[ ]}'
    assert merge_objects(b'{ "a":1.0 }', b"{}") == b'{ "a":1.0 }'
    assert merge_objects(b"{}", b'{"a" :1}') == b'{"a" :1}'
    assert put_if_absent(fields_of(b'{"a":1.0,"b":2.0}'), b'{"b":3.0,"a":null}') == b'{"b":3.0,"a":1.0}'
    assert put_if_absent({"a": b"1"}, b'{"a":0}') == b'{"a":0}'


def test_strings_are_escaped_the_same_way_for_ever() -> None:
    assert dump_string('\x00\x1f\n\t"\\/\x7f\u00e9\u2028\U0001f600<') == (
        b'"\\u0000\\u001f\\n\\t\\"\\\\/\x7f' + "\u00e9\u2028\U0001f600<".encode() + b'"'
    )


# --- search --------------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "c d"]), values, max_size=3)
texts = st.text(st.sampled_from("${}ab.[]0'*\\ \"workflow.inputé"), max_size=30)


def dumped(value: object, spaced: bool) -> bytes:
    return json.dumps(value, ensure_ascii=spaced, indent=2 if spaced else None).encode()


@given(values, st.booleans())
def test_values_without_expressions_keep_their_text(value: object, spaced: bool) -> None:
    raw = dumped(value, spaced)
    if b"${" in raw:
        return
    assert resolve(parse_template(raw, ""), FACTS) == compact(raw)


@given(values, st.booleans())
def test_a_whole_reference_gives_the_bytes_that_are_there(value: object, spaced: bool) -> None:
    raw = dumped(value, spaced)
    whole = parse_template(b'"${workflow.input}"', "")
    assert resolve(whole, Facts(workflow_input=raw)) is raw
    wrapped = Facts(workflow_input=b'{"a":[0, ' + raw + b"]}")
    assert resolve(parse_template(b'"${workflow.input.a[1]}"', ""), wrapped) == raw
    text = json.loads(resolve(parse_template(b'"<${workflow.input}>"', ""), Facts(workflow_input=raw)))
    assert text[1:-1] == (value if isinstance(value, str) else compact(raw).decode())
    assert text_of(raw) == text[1:-1]


@given(st.lists(texts, max_size=4), objects)
def test_whatever_parses_resolves_in_any_scope(strings: list[str], value: object) -> None:
    try:
        template = parse_template(dumped(strings, False), "")
    except (DefinitionInvalid, DefinitionUnimplemented):
        return
    for facts in (Facts(), FACTS, Facts(workflow_input=dumped(value, True), a_output=b'"x.["', b_output=b"[1]")):
        check_json(resolve(template, facts))


inner = st.sampled_from(["b.output", "workflow.input.a", "workflow.input", "workflow.input['c d']"])


@given(inner, inner, objects, values)
def test_computed_paths_resolve_in_any_scope(first: str, second: str, input: object, output: object) -> None:
    raw = dumped([f"${{a.output.${{{first}}}[${{{second}}}]}}", f"-${{workflow.input.${{{first}}}}}"], False)
    facts = Facts(workflow_input=dumped(input, False), b_output=dumped(output, True), a_output=dumped(input, True))
    check_json(resolve(parse_template(raw, ""), facts))


@given(values, st.lists(st.sampled_from(["a", "b", "", 0, 1, -1]), max_size=4))
def test_definite_paths_find_what_python_finds(value: object, steps: list[Any]) -> None:
    expected: Any = value
    for step in steps:
        try:
            expected = expected[step] if isinstance(expected, dict if isinstance(step, str) else list) else None
        except (KeyError, IndexError):
            expected = None
        if expected is None:
            break
    found = follow(dumped(value, True), tuple(steps))
    assert (None if found is None else json.loads(found)) == expected


@given(st.text(max_size=20) | texts)
def test_a_text_is_a_path_or_refused(text: str) -> None:
    try:
        steps = parse_path(text)
    except PathInvalid:
        return
    assert steps


@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:\\u0d8tfn1e. '), max_size=20).map(str.encode))
def test_what_passes_the_door_can_be_taken_apart(text: bytes) -> None:
    try:
        check_json(text)
    except JsonInvalid:
        return
    json.loads(text)
    value_of(text)
    text_of(text)
    compact(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"{}", {"i": 1}),
        (b" { } \n", {"i": 1}),
        (b'{"a":{}}', {"a": {}, "i": 1}),
        (b'{"a":"{" }', {"a": "{", "i": 1}),
        (b'{"i":0,"a":[]}', {"i": 1, "a": []}),
    ],
)
def test_a_field_is_appended_to_an_object(text: bytes, fields: dict[str, object]) -> None:
    found = fields_of(append_field(text, "i", b"1"))
    assert [(key, msgspec.json.decode(value)) for key, value in found.items()] == list(fields.items())


def test_brackets_are_found_in_slices_as_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    found = [bytes(chance.choice(b'"\\[]{}a,') for _ in range(chance.randrange(40))) for _ in range(5_000)]
    at_once = [json_texts._brackets_of(text) for text in found]
    assert len(set(at_once)) > 100
    monkeypatch.setattr(json_texts, "_SLICE", 7)
    assert [json_texts._brackets_of(text) for text in found] == at_once
