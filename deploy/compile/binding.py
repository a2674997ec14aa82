"""What functions look up each time they run, looked up once: `rewritten` makes source that mypyc compiles to less work.

A member of an enumeration costs a dear call of the metaclass each time that it is named (`TaskStatus.COMPLETED`), and
what is imported from a module that is not compiled, a look into the module's dictionary. Bound to a Final of the
module, either is one load. Only what stands in the bodies of functions is replaced, and every line stays where it is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

Members = dict[tuple[str, str], frozenset[str]]
"""(module, enumeration) -> names of its members"""

_MARK = "_bound_"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Known to the compiler, or to the type checker, by themselves.
_SPECIAL = frozenset(("typing", "typing_extensions", "collections.abc", "__future__", "dataclasses", "enum", "abc"))


def enumerations(root: Path, paths: Iterable[Path]) -> Members:
    """Those that are defined in the modules at these paths, which are below `root`."""
    found: Members = {}
    for path in paths:
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in node.bases):
                assigned = [one for one in node.body if isinstance(one, ast.Assign)]
                targets = [target for one in assigned for target in one.targets if isinstance(target, ast.Name)]
                found[name, node.name] = frozenset(target.id for target in targets)
    return found


def rewritten(source: str, members: Members, compiled: frozenset[str]) -> str:
    """`compiled`: names of the modules whose functions are called directly anyway."""
    tree = ast.parse(source)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name) for node in imports for alias in node.names
    }
    callables = {name for name, (module, _) in imported.items() if module not in compiled and module not in _SPECIAL}
    bound: dict[str, str] = {}  # what is looked up -> what it is bound to
    places: list[tuple[int, int, int, str]] = []  # line, and the columns in it, in bytes
    for node in _in_functions(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if node.attr not in members.get(imported.get(name, ("", "")), frozenset()):
                continue
            wanted, place = f"{name}.{node.attr}", node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callables:
            wanted, place = node.func.id, node.func
        else:
            continue
        if place.end_lineno != place.lineno or place.end_col_offset is None:
            continue
        replacement = bound.setdefault(wanted, _MARK + wanted.replace(".", "_"))
        places.append((place.lineno, place.col_offset, place.end_col_offset, replacement))
    if not bound:
        return source
    lines = source.encode().splitlines(keepends=True)
    for line, begin, end, replacement in sorted(places, reverse=True):
        text = lines[line - 1]
        lines[line - 1] = text[:begin] + replacement.encode() + text[end:]
    last = imports[-1].end_lineno or 0
    added = "".join([f"; {name}: _Final = {wanted}" for wanted, name in sorted(bound.items())])
    lines[last - 1] = lines[last - 1].rstrip(b"\n") + f"; from typing import Final as _Final{added}\n".encode()
    return b"".join(lines).decode()


def _in_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated when a function runs: neither decorators nor defaults nor types, nor patterns to match."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _FUNCTIONS):
            for statement in node.body:
                yield from _evaluated(statement, _shadowed(node))
        elif isinstance(node, ast.ClassDef):
            yield from _in_functions(node)


def _evaluated(node: ast.AST, shadowed: frozenset[str]) -> Iterator[ast.AST]:
    if isinstance(node, ast.pattern):
        return
    name = node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Attribute) else None
    if not (isinstance(name, ast.Name) and name.id in shadowed):
        yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(value, ast.arguments):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _evaluated(child, shadowed)


def _shadowed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """The names that mean something of the function's own inside of it."""
    nodes = list(ast.walk(function))
    names = {node.arg for node in nodes if isinstance(node, ast.arg)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    return frozenset(names | {alias.asname or alias.name for node in imports for alias in node.names})
