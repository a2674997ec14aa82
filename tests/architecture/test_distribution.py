"""What is shipped: the wheel's content, the pins that must not drift, and what a release promises about the API."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"orchestrator", "orchestrator_client", "orchestrator_api"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the installed build backend: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=120, stdin=subprocess.DEVNULL)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_our_three_packages_and_nothing_else(files: set[str]) -> None:
    tops = {name.split("/")[0] for name in files if ".dist-info/" not in name}
    assert tops == PACKAGES


def test_the_wheel_holds_every_module(files: set[str]) -> None:
    for folder in ("orchestrator", "client/orchestrator_client", "proto/orchestrator_api"):
        top = ROOT / folder
        committed = {path.relative_to(top.parent).as_posix() for path in top.rglob("*.py")}
        assert committed
        assert committed <= files


def test_the_wheel_is_typed(files: set[str]) -> None:
    assert {"orchestrator_client/py.typed", "orchestrator_api/py.typed"} <= files
    stubs = {name for name in files if name.endswith(("_pb2.py", "_pb2_grpc.py"))}
    assert stubs
    assert {f"{name}i" for name in stubs} <= files


def test_the_wheel_has_the_command_the_plugin_and_the_license(wheel: Path, files: set[str]) -> None:
    [entry_points] = [name for name in files if name.endswith(".dist-info/entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        told = archive.read(entry_points).decode()
    assert "[console_scripts]\norchestrator = orchestrator.__main__:main" in told
    assert "[pytest11]\norchestrator.testing.plugin = orchestrator.testing.plugin" in told
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)


def test_the_readme_is_the_page_of_the_distribution() -> None:
    """Declared if there is one: a build fails without the file, and an index shows an empty page without the line."""
    assert PYPROJECT["project"].get("readme") == ("README.md" if (ROOT / "README.md").exists() else None)


def test_what_is_compiled_is_the_engine_but_for_what_metaclasses_make() -> None:
    """mypyc would take a struct for an ordinary class, and leave out its options, without a word."""
    command = [sys.executable, "-c", "import hook; print(*hook.modules(hook.ROOT))"]
    told = subprocess.run(command, cwd=ROOT / "deploy/compile", check=True, capture_output=True, text=True, timeout=60)
    compiled = set(told.stdout.split())
    assert {f"orchestrator/engine/{name}.py" for name in ("machine", "step", "state", "walk", "leases")} <= compiled
    assert not {f"orchestrator/engine/{name}.py" for name in ("model", "choices", "commands", "plan")} & compiled
    made_by_metaclasses = re.compile(r"^class \w+\((msgspec\.Struct|Row|\w*Enum)\b", re.MULTILINE)
    assert not [name for name in compiled if made_by_metaclasses.search((ROOT / name).read_text("utf-8"))]


def test_raft_is_the_release_that_was_hardened() -> None:
    """Methods of it are overridden whole, so another release is another program: read what changed first."""
    assert "pysyncobj==0.3.17" in PYPROJECT["project"]["dependencies"]
    assert version("pysyncobj") == "0.3.17"


def test_the_generator_is_not_newer_than_the_oldest_runtime() -> None:
    """Stubs refuse to load on a protobuf or grpcio older than what generated them."""
    [generator] = re.findall(r"grpcio-tools==([\d.]+)", " ".join(PYPROJECT["dependency-groups"]["proto"]))
    assert f"grpcio>={generator}" in PYPROJECT["project"]["dependencies"]
    stub = (ROOT / "proto/orchestrator_api/v1/common_pb2_grpc.py").read_text(encoding="utf-8")
    assert f"GRPC_GENERATED_VERSION = '{generator}'" in stub
    [protobuf] = re.findall(r"# Protobuf Python Version: (\d+\.\d+)", messages_stub())
    assert f"protobuf>={protobuf}" in PYPROJECT["project"]["dependencies"]


def messages_stub() -> str:
    return (ROOT / "proto/orchestrator_api/v1/common_pb2.py").read_text(encoding="utf-8")


def test_what_is_imported_is_declared() -> None:
    """A distribution that only the development's tools bring would be missing where `pip install` is all there is."""
    paths = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "client/orchestrator_client").rglob("*.py")]
    modules = {module for path in paths for module in _imported(ast.parse(path.read_text("utf-8")))}
    owners = {file.as_posix(): _canonical(one.name) for one in distributions() for file in one.files or ()}
    project = PYPROJECT["project"]
    installed = _with_their_own([*project["dependencies"], *project["optional-dependencies"]["otel"]])
    found = {module: owners[file] for module in modules for file in _files_of(module) if file in owners}
    assert {"google.rpc", "google.protobuf", "grpc", "msgspec", "pysyncobj"} <= found.keys()
    # pytest is there wherever its plugin is loaded.
    assert {module: owner for module, owner in found.items() if owner not in installed | {"pytest"}} == {}


def _with_their_own(requirements: list[str]) -> set[str]:
    """What these requirements bring, optional extras left out."""
    found: set[str] = set()
    pending = list(requirements)
    while pending:
        text = pending.pop()
        name = _canonical(re.split(r"[^\w.-]", text)[0])
        if name not in found and "extra ==" not in text:
            found.add(name)
            with suppress(PackageNotFoundError):  # what other systems need
                pending += requires(name) or []
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _files_of(module: str) -> Iterator[str]:
    """Where a module may lie, or a package, which need not have a file of its own."""
    place = module.replace(".", "/")
    yield from (f"{place}.py", f"{place}/__init__.py")
    if module == "google.rpc":
        yield f"{place}/status_pb2.py"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_locks_hold_every_dependency_by_hash_and_no_address() -> None:
    assert {lock.stem for lock in LOCKS} == {"build", "dev", "helm", "node", "proto", "wheel"}
    for lock in LOCKS:
        text = lock.read_text(encoding="utf-8")
        pinned = re.findall(r"^[\w.-]+==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        assert pinned
        assert all("--hash=sha256:" in entry for entry in pinned)
        assert "://" not in text
        assert "--index" not in text


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("dev.lock", [PYPROJECT["project"]["dependencies"], PYPROJECT["dependency-groups"]["dev"]]),
        ("build.lock", [PYPROJECT["dependency-groups"]["build"]]),
        ("proto.lock", [PYPROJECT["dependency-groups"]["proto"]]),
        ("helm.lock", [PYPROJECT["dependency-groups"]["helm"]]),
        ("node.lock", [PYPROJECT["project"]["dependencies"]]),
        ("wheel.lock", [[line for line in PYPROJECT["dependency-groups"]["wheel"] if isinstance(line, str)]]),
    ],
)
def test_locks_name_everything_that_is_asked_for(lock: str, wanted: list[list[str]]) -> None:
    """A dependency that is added here but not to the lock (`make lock`) would be missed on a fresh machine only."""
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / lock).read_text(encoding="utf-8"), re.MULTILINE))
    asked = {re.split(r"[\[<>=;! ]", line)[0].lower().replace("_", "-") for group in wanted for line in group}
    assert asked <= locked


def test_there_is_an_image_of_the_api_that_must_not_break() -> None:
    """Without the image, `make proto-lint` has nothing to compare with, and a break would pass."""
    assert (ROOT / "proto/released.binpb").exists(), "see `make proto-release`"
