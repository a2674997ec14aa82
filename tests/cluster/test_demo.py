"""The demo as a user runs it: real nodes, real services, a leader killed with SIGKILL, and a clean audit at the end."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "client" / "examples" / "orders" / "demo.py"
# The demo itself gives up much earlier.
TIMEOUT_S = 290

LAST_LINE = re.compile(
    r"30 orders: (?P<shipped>\d+) shipped, (?P<compensated>\d+) fully compensated, 0 lost, 0 double effects "
    r"\((?P<repeated>\d+) repeated calls absorbed by idempotency keys\) · stock and money balance · "
    r"leader killed 1x, longest client pause (?P<pause>\d+\.\d) s · seed 5 to replay"
)


def test_thirty_orders_and_one_dead_leader(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "client", "proto")),
        "TMPDIR": str(tmp_path),
        "SEED": "5", "ORDERS": "30", "KILLS": "1", "PLAIN": "1",
    }
    picture = tmp_path / "demo.svg"
    demo = subprocess.run(
        [sys.executable, DEMO, "--svg", picture],
        env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )
    told = f"{demo.stdout}\n{demo.stderr}"
    assert demo.returncode == 0, told
    last = LAST_LINE.fullmatch(demo.stdout.splitlines()[-1])
    assert last is not None, told
    assert int(last["shipped"]) + int(last["compensated"]) == 30
    # The payment service crashed once after it had charged, and a carrier was silent.
    assert int(last["repeated"]) >= 1
    assert "payment crashed" in demo.stdout
    assert "kill -9 of the leader" in demo.stdout
    assert "stock" in picture.read_text(encoding="utf-8")
    # What went well leaves nothing behind.
    assert list(tmp_path.glob("orders-demo-*")) == []
