"""What the page and the example show is so: they are run as a user would."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testing_kit.test_plugin import ROOT, pytest_run

PAGE = ROOT / "orchestrator" / "testing" / "README.md"
SHOP = ROOT / "client" / "examples" / "shop"
OPTIONS = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for of, text in found if of == language]


def test_the_page_runs(tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    code, said = pytest_run(tmp_path, *OPTIONS)
    assert code == 0, said
    assert f"{len(re.findall('async def test_', ''.join(blocks('python'))))} passed" in said, said


def test_a_failure_says_what_the_page_shows(tmp_path: Path) -> None:
    """But for the numbers, the node and the command: here it is the first entry."""
    [shown] = blocks("")
    [test] = [block for block in blocks("python") if "survives_every_kill" in block]
    failing = test.replace("seed=7)", "seed=7, moments=['committed'])").rstrip() + " and cluster.leader == first\n"
    failing = failing.replace("    calls =", "    first = cluster.leader\n    calls =")
    (tmp_path / "test_page.py").write_text(blocks("python")[0] + failing, encoding="utf-8")
    code, said = pytest_run(tmp_path, *OPTIONS)
    assert code == 1, said
    for line in shown.replace("StartWorkflow order-17", "OpenClientSession").strip().splitlines():
        assert re.sub(r"\d+", "0", line) in re.sub(r"\d+", "0", said), said


def test_the_first_page_shows_a_test_that_runs(tmp_path: Path) -> None:
    """Of the saga below it, and as often as it says."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    test, saga = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    imports = "import pytest\nfrom orchestrator.testing import every_leader_kill\nruns = []\n"
    counted = test.replace("    calls =", "    runs.append(cluster)\n    calls =")
    told = "\ndef test_how_often():\n    print('runs', len(runs))\n"
    (tmp_path / "test_page.py").write_text(imports + saga + counted + told, encoding="utf-8")
    code, said = pytest_run(tmp_path, "-s", *OPTIONS)
    assert code == 0, said
    [runs] = re.findall(r"runs (\d+)", said)
    assert f"{runs} runs of three real nodes" in page


def test_the_shop_runs() -> None:
    code, said = pytest_run(SHOP, "test_orders.py", *OPTIONS)
    assert code == 0, said
    assert "5 passed" in said, said
