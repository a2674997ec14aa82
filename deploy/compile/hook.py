"""Compiles the modules that applying a log entry is made of, with mypyc: `python deploy/compile/hook.py DESTINATION`.

The destination becomes a folder for PYTHONPATH: the packages as they are, and extension modules beside the sources that
were compiled. The same is the build hook of compiled wheels. Needs mypy, setuptools and a C compiler; takes minutes.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # nobody builds a wheel
    BuildHookInterface = object  # type: ignore[assignment, misc]

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # a build backend loads this file alone

from binding import enumerations, rewritten  # noqa: E402

ROOT = HERE.parents[1]
PACKAGES = ("orchestrator", "client/orchestrator_client", "proto/orchestrator_api")
# Folders, and modules of others: what is done for each command or row, and waits for nothing.
COMPILED = (
    "orchestrator/engine",
    "orchestrator/codec",
    "orchestrator/replication/applying.py",
    "orchestrator/storage/names.py",
    "orchestrator/storage/reading.py",
    "orchestrator/storage/staged.py",
    "orchestrator/storage/writing.py",
)


def modules(root: Path) -> list[str]:
    """The modules that can be compiled, relative to `root`, sorted."""
    found = [path for name in COMPILED for path in (root / name).rglob("*.py")]
    found += [root / name for name in COMPILED if name.endswith(".py")]
    return sorted(str(path.relative_to(root)) for path in found if path.name != "__init__.py" and _can_be(path))


def _can_be(path: Path) -> bool:
    # mypyc knows nothing of what metaclasses make of a class: msgspec's structs, whose options are keywords, and
    # enumerations.
    classes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
    return not any(one.keywords or any(ast.unparse(base).endswith("Enum") for base in one.bases) for one in classes)


def compile_to(destination: Path) -> None:
    """Raises CalledProcessError; the compilers' words are on standard error by then."""
    destination.mkdir(parents=True)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / package, destination / Path(package).name, ignore=ignored)
    wanted = modules(destination)
    sources = _bind(destination, wanted)
    command = [sys.executable, str(HERE / "in_place.py"), str(ROOT / "pyproject.toml"), *wanted]
    # mypy says on standard output what is wrong, and the C compiler which commands are run.
    done = subprocess.run(command, cwd=destination, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout)
    done.check_returncode()
    for path, source in sources.items():
        path.write_text(source, "utf-8")
    shutil.rmtree(destination / "build")


def _bind(destination: Path, wanted: list[str]) -> dict[Path, str]:
    """Rewrites the modules for the compiler; answers them as they were."""
    members = enumerations(destination, destination.rglob("*.py"))
    compiled = frozenset(name.removesuffix(".py").replace("/", ".") for name in wanted)
    sources = {destination / name: (destination / name).read_text("utf-8") for name in wanted}
    for path, source in sources.items():
        path.write_text(rewritten(source, members, compiled), "utf-8")
    return sources


class CompileHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Puts the extension modules into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="orchestrator-compile-")
        built = Path(self._folder.name) / "built"
        compile_to(built)
        build_data["force_include"] |= {str(path): str(path.relative_to(built)) for path in built.rglob("*.so")}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()


def main(destination: Path) -> None:
    fresh = destination.with_name(destination.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    compile_to(fresh)
    shutil.rmtree(destination, ignore_errors=True)
    fresh.rename(destination)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
