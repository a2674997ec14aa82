"""What is compiled is rewritten first: what stays as it was, and what becomes of the rest."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/compile"

SOURCE = """\
from __future__ import annotations
from colours import Colour, Paint, made
from engine import run

DEFAULT = Colour.RED

def painted(colour: Colour = Colour.RED, *, bright: bool) -> Paint:
    \"\"\"Says nothing.\"\"\"
    if colour is Colour.RED and Colour.mixed():
        return Paint(Colour.BLUE, run(Colour.RED))
    match colour:
        case Colour.BLUE:
            return made()
    return [Paint(one) for one in colour if one is not Colour.BLUE]

def own(Paint, made):
    return Paint(made())
"""

WANTED = """\
from __future__ import annotations
from colours import Colour, Paint, made
from engine import run; from typing import Final as _Final; _bound_Colour_BLUE: _Final = Colour.BLUE; \
_bound_Colour_RED: _Final = Colour.RED; _bound_Paint: _Final = Paint; _bound_made: _Final = made

DEFAULT = Colour.RED

def painted(colour: Colour = Colour.RED, *, bright: bool) -> Paint:
    \"\"\"Says nothing.\"\"\"
    if colour is _bound_Colour_RED and Colour.mixed():
        return _bound_Paint(_bound_Colour_BLUE, run(_bound_Colour_RED))
    match colour:
        case Colour.BLUE:
            return _bound_made()
    return [_bound_Paint(one) for one in colour if one is not _bound_Colour_BLUE]

def own(Paint, made):
    return Paint(made())
"""


def test_members_of_enumerations_and_what_is_imported_are_looked_up_once() -> None:
    """In functions only: not where a default or a pattern is meant, nor a name of the function's own."""
    program = (
        "import sys; from binding import rewritten; members = {('colours', 'Colour'): frozenset(('RED', 'BLUE'))};"
        "sys.stdout.write(rewritten(sys.stdin.read(), members, frozenset(('engine',))))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=FOLDER, input=SOURCE, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == WANTED


ROWS = """\
import msgspec

class First(msgspec.Struct):
    number: int
    text: str = "first"

class Second(msgspec.Struct):
    text: str
    number: int

class Third(Second):
    pass
"""

READING = """\
from typing import Any
from rows import First

def number_of(row: First) -> int:
    return row.number

def any_number_of(row: Any) -> Any:
    return row.number

def named(row: Any, name: str) -> Any:
    return getattr(row, name)
"""

CHECKS = """\
import reading, rows

class Computed:
    @property
    def number(self):
        return 3

class Asked:
    def __getattr__(self, name):
        return len(name)

class Slotted:
    __slots__ = ("number",)

assert reading.__file__.endswith(".so"), reading.__file__
first, second, third = rows.First(1), rows.Second("second", 2), rows.Third("third", 4)
for _ in range(3):
    # One place, types of all kinds in turn.
    assert reading.number_of(first) == 1
    kinds = [first, second, third, Computed(), Asked()]
    assert [reading.any_number_of(one) for one in kinds] == [1, 2, 4, 3, 6]
    # One place, names of all kinds in turn.
    assert [reading.named(first, name) for name in ("number", "text", "".join(["num", "ber"]))] == [1, "first", 1]
first.number = 10 ** 30
assert reading.number_of(first) == reading.any_number_of(first) == 10 ** 30
# A field without a value.
slotted = Slotted()
for value in (None, 7, None):
    if value is not None:
        slotted.number = value
        assert reading.any_number_of(slotted) == value
        del slotted.number
    try:
        reading.any_number_of(slotted)
    except AttributeError as error:
        assert "number" in str(error)
    else:
        raise AssertionError("it has no value")
# A type that is changed, in itself and in what it comes from.
assert reading.any_number_of(third) == 4
del rows.Second.number
try:
    reading.any_number_of(third)
except AttributeError:
    pass
else:
    raise AssertionError("there is no such field any more")
rows.Third.number = property(lambda row: 5)
assert reading.any_number_of(third) == 5
# As many reads that are of no field as it takes to cease looking.
for _ in range(200):
    assert reading.any_number_of(Computed()) == 3
assert reading.any_number_of(first) == 10 ** 30
"""


def test_compiled_code_reads_fields_as_they_are(tmp_path: Path) -> None:
    """Whatever the place in the code has read before, and whatever became of the type since."""
    pytest.importorskip("mypyc")
    if os.name != "posix" or shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "rows.py").write_text(ROWS, "utf-8")
    (tmp_path / "reading.py").write_text(READING, "utf-8")
    command = [sys.executable, str(FOLDER / "in_place.py"), str(ROOT / "pyproject.toml"), "reading.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    subprocess.run([sys.executable, "-c", CHECKS], cwd=tmp_path, check=True, timeout=60)


def test_what_compiles_a_wheel_is_given_all_that_the_modules_import() -> None:
    """A wheel is built where nothing else is installed, and what can't be found there is an error of types."""
    program = "import hook; print(*hook.modules(hook.ROOT))"
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, text=True, capture_output=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    seen = set(done.stdout.split())
    pending = sorted(seen)
    imported = set()
    while pending:
        for module in _imports(ROOT / pending.pop()):
            found = [place for name in (module, module.rpartition(".")[0])
                     for place in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py")
                     if name and (ROOT / place).exists()]
            imported |= set() if found else {module.split(".")[0]}
            pending += [place for place in found if place not in seen]
            seen |= set(found)
    others = imported - set(sys.stdlib_module_names)
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["dependencies"]
    wheel = [line for line in project["dependency-groups"]["wheel"] if isinstance(line, str)]
    for given in (hook, wheel):
        assert {"apsw", "msgspec"} <= others <= {re.split(r"[<>=]", line)[0] for line in given}


def _imports(file: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom)
                    for alias in node.names]
