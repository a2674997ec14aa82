"""What is compiled is rewritten first: what stays as it was, and what becomes of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy/compile"

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
