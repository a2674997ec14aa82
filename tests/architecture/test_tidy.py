"""Style is a test: what a reader may rely on in every file of the server and the SDK.

A rule is a function from a source to its faults. Each is also shown a source that breaks it, so that no rule can pass
by looking at nothing. Generated stubs are not ours to tidy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

# Names that say nothing attract everything.
VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "misc"}

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")

# A linter is silenced for named rules, and the next reader is told why.
SILENCED = re.compile(r"#\s*(?P<what>noqa|type:\s*ignore)(?P<rest>.*)")
SILENCED_WELL = {
    "noqa": re.compile(r":\s*[A-Z]+[0-9]+(\s*,\s*[A-Z]+[0-9]+)*(?!\s*,)\W+\w+"),
    "type": re.compile(r"\[[\w, -]+\]\W+\w+"),
}

# The clock and randomness are handed to the server's parts, so that a simulation can be both. Handed out they are here,
# and the command line and `verify` are outside the node.
WORLD_HOMES = ("orchestrator/__main__.py", "orchestrator/cli/", "orchestrator/verify/", "orchestrator/world.py")
WORLD = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|clock_gettime)(_ns)?"
    r"|time\.(localtime|gmtime|ctime|strftime)"
    r"|datetime\.(datetime\.)?(now|utcnow|today)"
    r"|random\.(?!Random\b|SystemRandom\b)\w+"
    r"|secrets\.\w+|os\.urandom|uuid\.uuid[0-9]"
)

# What import contracts can't see: built-in I/O, code from data, and results that differ between processes.
ENGINE_BUILTINS = {
    "__import__", "breakpoint", "compile", "eval", "exec", "globals", "hash", "id", "input", "open", "print",
}


@dataclass(frozen=True)
class Source:
    path: str  # from the project's root
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def of_server(self) -> bool:
        return self.path.startswith("orchestrator/")

    @property
    def of_engine(self) -> bool:
        return self.path.startswith("orchestrator/engine/")


Fault = tuple[int, str]


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The full name of everything imported: `import a.b` and `from a import b` both give `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def file_fits_in_a_head(source: Source) -> Iterator[Fault]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield lines, f"a file of {lines} lines: {FILE_LINES_MAX} is the limit"


def function_fits_on_a_screen(source: Source) -> Iterator[Fault]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines: {FUNCTION_LINES_MAX} is the limit"


def module_says_what_it_promises(source: Source) -> Iterator[Fault]:
    if not ast.get_docstring(source.tree):
        yield 1, "no module docstring"


def module_name_says_something(source: Source) -> Iterator[Fault]:
    for part in Path(source.path).with_suffix("").parts:
        if VAGUE_NAMES & set(part.split("_")):
            yield 1, f"`{part}` says nothing about what is in it"


def silenced_linter_has_a_reason(source: Source) -> Iterator[Fault]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if found := SILENCED.search(line):
            well = SILENCED_WELL[found["what"][:4]]
            if not well.match(found["rest"]):
                yield number, f"`{found['what']}` needs the rule's code and a reason behind it"


def nothing_is_left_unfinished(source: Source) -> Iterator[Fault]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if found := UNFINISHED.search(line):
            yield number, f"`{found[0]}`: do it, or write it where work is planned"


def no_pickle(source: Source) -> Iterator[Fault]:
    for line, name in imported(source.tree):
        if {"pickle", "cPickle", "_pickle", "shelve", "marshal"} & set(name.split(".")):
            yield line, f"`{name}`: bytes from a peer or a disk must not run code, nor hang on Python's names"


def node_does_not_sleep(source: Source) -> Iterator[Fault]:
    if source.of_server and not source.path.startswith(("orchestrator/cli/", "orchestrator/verify/")):
        named = [(node.lineno, dotted(node)) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
        for line, name in [*named, *imported(source.tree)]:
            if name == "time.sleep":
                yield line, "time.sleep: wait for an event, or for the injected clock"


def world_is_injected(source: Source) -> Iterator[Fault]:
    if source.of_server and not source.path.startswith(WORLD_HOMES):
        names = [(node.lineno, dotted(node)) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
        for line, name in [*names, *imported(source.tree)]:
            if WORLD.fullmatch(name):
                yield line, f"`{name}` must be handed in: only {', '.join(WORLD_HOMES)} may reach for it"


def engine_has_no_hidden_inputs(source: Source) -> Iterator[Fault]:
    if not source.of_engine:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ENGINE_BUILTINS:
            yield node.lineno, f"{node.func.id}() in the engine: it does I/O, or differs between processes"
        if isinstance(node, ast.For | ast.comprehension) and is_set(node.iter):
            yield node.iter.lineno, "the order of a set differs between processes: sort it"


def engine_names_each_exception_by_itself(source: Source) -> Iterator[Fault]:
    """Compiled, a name has the type that it had first in its function: for a second exception it would be wrong."""
    if not source.of_engine:
        return
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        caught: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                kind = ast.unparse(node.type)
                if caught.setdefault(node.name, kind) != kind:
                    yield node.lineno, f"`{node.name}` is another exception elsewhere in {function.name}: another name"


def is_set(node: ast.expr) -> bool:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"set", "frozenset"}
    return called or isinstance(node, ast.Set | ast.SetComp)


LONG_FUNCTION = '"""Promise."""\ndef f():\n' + "    x = 1\n" * FUNCTION_LINES_MAX
TWO_EXCEPTIONS = (
    '"""Promise."""\ndef f():\n    try:\n        x = 1\n    except KeyError as e:\n        raise\n'
    "    except ValueError as e:\n        raise\n"
)
SERVER = "orchestrator/rpc/tasks.py"
ENGINE = "orchestrator/engine/tasks.py"
CLIENT = "client/orchestrator_client/tasks.py"

# Rule -> sources that break it.
RULES: dict[Callable[[Source], Iterator[Fault]], list[Source]] = {
    file_fits_in_a_head: [Source(SERVER, '"""Promise."""\n' + "x = 1\n" * FILE_LINES_MAX)],
    function_fits_on_a_screen: [
        Source(CLIENT, LONG_FUNCTION),
        Source(CLIENT, LONG_FUNCTION.replace("def", "async def")),
    ],
    module_says_what_it_promises: [Source(CLIENT, "x = 1\n"), Source("orchestrator/rpc/__init__.py", "")],
    module_name_says_something: [
        Source("orchestrator/rpc/utils.py", ""),
        Source("orchestrator/common/tasks.py", ""),
        Source("orchestrator/rpc/test_helpers.py", ""),
    ],
    silenced_linter_has_a_reason: [
        Source(CLIENT, "import a  # noqa\n"),
        Source(CLIENT, "import a  # noqa: F401\n"),
        Source(CLIENT, "import a  # noqa: F401, E402\n"),
        Source(CLIENT, "x = y()  # type: ignore\n"),
        Source(CLIENT, "x = y()  # type: ignore[no-any-return]\n"),
        Source(CLIENT, "x = y()  # type: ignore # because\n"),
    ],
    nothing_is_left_unfinished: [Source(SERVER, "# TODO: later\n"), Source(CLIENT, "x = 'XXX'\n")],
    no_pickle: [Source(SERVER, "import pickle\n"), Source(SERVER, "from pysyncobj.pickle import loads\n")],
    node_does_not_sleep: [Source(SERVER, "import time\ntime.sleep(1)\n"), Source(SERVER, "from time import sleep\n")],
    world_is_injected: [
        Source(SERVER, "import time\nnow = time.monotonic\n"),
        Source(SERVER, "from time import time_ns\n"),
        Source(SERVER, "import random\nrandom.shuffle([])\n"),
        Source(SERVER, "from datetime import datetime\ndatetime.now()\n"),
        Source(SERVER, "import uuid\nuuid.uuid4()\n"),
    ],
    engine_has_no_hidden_inputs: [
        Source(ENGINE, "open('a')\n"),
        Source(ENGINE, "hash('a')\n"),
        Source(ENGINE, "for x in {1, 2}: pass\n"),
        Source(ENGINE, "y = [x for x in set('ab')]\n"),
    ],
    engine_names_each_exception_by_itself: [Source(ENGINE, TWO_EXCEPTIONS)],
}

# Sources that come near a rule without breaking any.
INNOCENT = [
    Source(CLIENT, '"""Promise."""\nimport a  # noqa: F401 - it registers itself\n'),
    Source(CLIENT, '"""Promise."""\nx = y()  # type: ignore[no-any-return]  # the stub lags behind\n'),
    Source(CLIENT, '"""Promise."""\nimport time\nimport random\nx = time.monotonic() + random.random()\n'),
    Source(SERVER, '"""Promise."""\nimport random\ndef f(rng: random.Random) -> float:\n    return rng.random()\n'),
    Source("orchestrator/world.py", '"""Promise."""\nimport time\nnow = time.monotonic\n'),
    Source(ENGINE, '"""Promise."""\nfor x in sorted({1, 2}): pass\n'),
]


def sources() -> list[Source]:
    paths = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "client/orchestrator_client").rglob("*.py")]
    ours = sorted(path for path in paths if "_pb2" not in path.name)
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in ours]


def test_every_folder_of_modules_is_a_package() -> None:
    """Import contracts do not see into a folder without `__init__.py`: everything in it would be allowed."""
    folders = {(ROOT / source.path).parent for source in sources()}
    bare = sorted(folder.relative_to(ROOT).as_posix() for folder in folders if not (folder / "__init__.py").exists())
    assert not bare


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_source_keeps_the_rule(rule: Callable[[Source], Iterator[Fault]]) -> None:
    checked = sources()
    assert any(source.of_engine for source in checked)
    assert any(not source.of_server for source in checked)
    faults = [f"{source.path}:{line}: {fault}" for source in checked for line, fault in rule(source)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(("rule", "source"), [(rule, broken) for rule, many in RULES.items() for broken in many])
def test_a_rule_sees_what_breaks_it(rule: Callable[[Source], Iterator[Fault]], source: Source) -> None:
    assert list(rule(source))


@pytest.mark.parametrize("source", INNOCENT, ids=lambda source: source.text.splitlines()[1])
def test_the_rules_leave_innocent_code_alone(source: Source) -> None:
    assert [fault for rule in RULES for fault in rule(source)] == []
