"""README.md shows what is so: its saga is the example's, its limits are the code's, its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from orchestrator.config import SETTINGS
from orchestrator.engine import limits
from orchestrator.engine.definitions.elements import BRANCHES_MAX
from orchestrator.engine.definitions.parse import DOCUMENT_BYTES_MAX, validate_task, validate_workflow
from orchestrator.engine.expressions.texts import DEPTH_MAX, PAYLOAD_BYTES_MAX
from orchestrator.storage.search import PAGE_SIZE_MAX, SEARCH_SECONDS_MAX

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAGA = ROOT / "client" / "examples" / "saga.py"
PICTURE = ROOT / "client" / "examples" / "orders" / "screen.svg"
PAGES = sorted(
    path
    for folder in ("", "client", "deploy", "orchestrator", "proto", "tests")
    for path in ((ROOT / folder).rglob("*.md") if folder else ROOT.glob("*.md"))
)

LIMITS = {
    "input, output or signal": f"{PAYLOAD_BYTES_MAX // 1024} KiB of JSON, {DEPTH_MAX} levels deep",
    "all payloads of one execution": f"{limits.EXECUTION_BYTES >> 20} MiB",
    "attempts of tasks in one execution": f"{limits.TASKS:,}",
    "branches of a fork": f"{BRANCHES_MAX:,}",
    "a definition": f"{DOCUMENT_BYTES_MAX >> 20} MiB",
    "signals that wait in one execution": f"{limits.SIGNALS}, together {limits.SIGNAL_BYTES >> 20} MiB",
    "events that nobody waits for yet": (
        f"{limits.EVENTS_KEPT:,}, together {limits.EVENTS_KEPT_BYTES >> 20} MiB, each for a day"
    ),
    "events that wait to be written to Redis": (
        f"{limits.OUTBOX_EVENTS:,}, together {limits.OUTBOX_BYTES >> 20} MiB: then what publishes is not started"
    ),
    "a workflow id": f"{limits.WORKFLOW_ID_CHARS} characters",
    "a secret": f"{limits.SECRET_BYTES // 1024} KiB of text; {limits.SECRETS:,} in a namespace",
    "slots of a worker": f"{limits.SLOTS:,}",
    "a request with an id of its own": f"is known for {limits.REQUEST_WINDOW_MS // 60_000} minutes",
    "a session of the SDK": f"ends after {limits.CLIENT_SESSION_IDLE_MS // 60_000} minutes without a request",
    "a search": f"{SEARCH_SECONDS_MAX:.0f} s, pages of {PAGE_SIZE_MAX:,}",
    "live executions (`max_live_executions`)": f"{SETTINGS['max_live_executions'].default:,}",
}


def squeezed(text: str) -> str:
    """Without blank lines: a page has room for fewer than a program."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def saga_shown() -> str:
    [_, block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)  # the first is its test
    return squeezed(str(block))


def test_the_saga_is_the_examples_word_for_word() -> None:
    assert f"\n{saga_shown()}\n" in squeezed(SAGA.read_text(encoding="utf-8"))


def test_the_saga_runs_as_it_is_shown_and_can_be_registered() -> None:
    program: dict[str, Any] = {"__name__": "readme"}
    exec(saga_shown(), program)  # tests/cluster/test_saga_example.py executes it on real nodes
    parsed = validate_workflow(program["saga"].to_json().encode())
    assert [element.compensation is not None for element in parsed.elements] == [True, False, False]
    for definition in program["saga"].task_definitions():
        validate_task(json.dumps(definition).encode())


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    """Made by `demo.py --svg`; the lines that name the hosts of fonts are taken out."""
    picture = PICTURE.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"' )]+", picture) == ["http://www.w3.org/2000/svg"]


def test_the_pause_is_the_pictures() -> None:
    [pause] = re.findall(r"callers wait meanwhile, ([\d.]+) s at most in the run above", README)
    shown = re.sub(r"<[^>]+>", "", PICTURE.read_text(encoding="utf-8")).replace("&#160;", " ")
    assert f"longest client pause {pause} s" in " ".join(shown.split())


def test_the_limits_are_those_of_the_code() -> None:
    table = README[README.index("| limit |"):].split("\n\n")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))
    assert rows == LIMITS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}
