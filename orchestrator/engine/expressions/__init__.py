"""`${...}` references: parsed once, resolved against a scope without ever reformatting a JSON value.

Numbers and untouched values keep their own text (msgspec.Raw), so that no result depends on how a float is printed.
``templates`` parses to what ``template_model`` has, and resolves it; ``paths`` walks into values; ``texts`` handles
JSON texts as such.
"""

from __future__ import annotations

from orchestrator.engine.expressions.template_model import Template
from orchestrator.engine.expressions.templates import (
    EXPRESSIONS_MAX,
    TASK_FIELDS,
    WORKFLOW_FIELDS,
    Scope,
    overlay_template,
    parse_template,
    resolve,
    resolve_value,
    signed_template,
)
from orchestrator.engine.expressions.texts import (
    DEPTH_MAX,
    NULL,
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    PayloadInvalid,
    append_field,
    assemble_array,
    assemble_object,
    check_json,
    check_payload,
    compact,
    dump_string,
    elements_of,
    fields_of,
    is_json_object,
    is_null,
    merge_objects,
    put_if_absent,
    text_of,
    value_of,
)

__all__ = [
    "DEPTH_MAX",
    "EXPRESSIONS_MAX",
    "NULL",
    "PAYLOAD_BYTES_MAX",
    "TASK_FIELDS",
    "WORKFLOW_FIELDS",
    "JsonInvalid",
    "PayloadInvalid",
    "Scope",
    "Template",
    "append_field",
    "assemble_array",
    "assemble_object",
    "check_json",
    "check_payload",
    "compact",
    "dump_string",
    "elements_of",
    "fields_of",
    "is_json_object",
    "is_null",
    "merge_objects",
    "overlay_template",
    "parse_template",
    "put_if_absent",
    "resolve",
    "resolve_value",
    "signed_template",
    "text_of",
    "value_of",
]
