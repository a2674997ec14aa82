"""A recorded run is shown as it should be: as a screen, as lines and as a picture."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from scoreboard import NodeView, Scoreboard
from screen import LinesView, LiveView, render, save_svg

VERDICT = (
    "40 orders: 33 shipped, 7 fully compensated, 0 lost, 0 double effects (3 repeated calls absorbed by idempotency "
    "keys) · stock and money balance · leader killed 1x, longest client pause 1.5 s · seed 7 to replay"
)


def play(board: Scoreboard) -> Iterator[float]:
    """Forty orders in twelve seconds; node b leads, is killed at 4.0 s and back at 7.0 s. Yields the times."""
    board.happened(0.0, "the shop opens")
    for tick in range(1, 49):
        at_s = tick / 4
        leader, term = ("b", 2) if at_s < 5.0 else ("c", 3)
        down = "b" if 4.0 <= at_s < 7.0 else ""
        board.nodes = [
            NodeView(name, "down")
            if name == down
            else NodeView(name, "leader" if name == leader else "follower", term, 20 * tick, 3 if name == "a" else 0)
            for name in "abc"
        ]
        if at_s == 4.0:
            board.killed(at_s, "b")
        if at_s == 7.0:
            board.happened(at_s, "node b is started again")
        if not 4.0 <= at_s < 5.25 and board.acknowledged_count < 40:
            board.acknowledged(at_s, "client-1")
        if at_s > 2.0 and board.in_flight:
            board.finished(shipped=board.acknowledged_count % 6 != 0)
        yield at_s
    board.verdict = [VERDICT]


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(orders=40, seed=7)


def screen_text(board: Scoreboard, at_s: float) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(render(board, at_s))
    return console.export_text()


def line_with(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip(" │").startswith(start))


def test_the_screen_while_the_leader_is_dead(board: Scoreboard) -> None:
    for at_s in play(board):
        if at_s == 4.75:
            break
    text = screen_text(board, 4.75)
    assert "✗ down" in line_with(text, "b ")
    assert "…" in line_with(text, "kill, pause")
    assert "kill -9 of the leader, node b, with 8 orders in flight" in text


def test_the_screen_at_the_end(board: Scoreboard) -> None:
    list(play(board))
    text = screen_text(board, 12.0)
    assert "orchestrator-cluster · 40 orders · seed 7 · 12 s" in text
    assert "● leader" in line_with(text, "c ")
    assert line_with(text, "a ").split()[1:7] == ["a", "○", "follower", "3", "960", "3"]
    assert line_with(text, "shipped").rstrip(" │").endswith(str(board.shipped))
    assert line_with(text, "in flight").rstrip(" │").endswith(str(board.in_flight))
    assert line_with(text, "shipped").count("█") > line_with(text, "compensated").count("█") > 0


def test_the_kill_is_marked_under_its_second_with_the_pause_it_made(board: Scoreboard) -> None:
    list(play(board))
    text = screen_text(board, 12.0)
    sparks, marks = line_with(text, "acks/s"), line_with(text, "kill, pause")
    first_second = sparks.index("▆") if "▆" in sparks else sparks.index("█")
    assert marks.index("▲") == first_second + 4
    assert "▲ 1.5 s" in marks
    assert sparks[first_second + 4] == " "


def test_a_long_run_is_squeezed_and_not_cut(board: Scoreboard) -> None:
    for second in (0, 60, 61, 600):
        board.acknowledged(float(second), "client-1")
    board.killed(61.0, "a")
    text = screen_text(board, 601.0)
    sparks, marks = line_with(text, "acks/s"), line_with(text, "kill, pause")
    begin, kill, end = (column for column, mark in enumerate(sparks) if mark in "▁▂▃▄▅▆▇█")
    assert marks.index("▲") == kill
    assert 0.09 < (kill - begin) / (end - begin) < 0.11


def test_a_run_that_has_not_begun_has_a_screen_too(board: Scoreboard) -> None:
    assert "0 max" in screen_text(board, 0.0)


def test_the_screen_fits_its_width_and_never_changes_its_height(board: Scoreboard) -> None:
    heights = set()
    for at_s in play(board):
        board.happened(at_s, "something with a name that is far too long for one line " * 3)
        lines = screen_text(board, at_s).splitlines()
        assert max(map(len, lines)) <= 100
        heights.add(len(lines))
    assert len(heights) == 1


def test_the_live_view_leaves_the_last_screen_and_the_verdict_in_one_line(board: Scoreboard) -> None:
    out = io.StringIO()
    view = LiveView(board, Console(width=110, file=out, force_terminal=True, color_system=None))
    for at_s in play(board):
        view.show(at_s)
    view.close(12.0)
    assert out.getvalue().splitlines()[-1] == VERDICT


def test_lines_tell_each_event_once_and_the_state_now_and_then(board: Scoreboard) -> None:
    out = io.StringIO()
    view = LinesView(board, out)
    for at_s in play(board):
        view.show(at_s)
    view.close(12.0)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0] == "   0.0 s  the shop opens"
    assert lines.count("   4.0 s  kill -9 of the leader, node b, with 8 orders in flight") == 1
    status = [line for line in lines if "orders acknowledged" in line]
    assert len(status) == 4
    assert status[-1].endswith("a follower (term 3, lag 3), b follower (term 3, lag 0), c leader (term 3, lag 0)")
    assert lines[-1] == VERDICT


def test_the_picture_shows_the_last_screen_and_the_verdict(board: Scoreboard, tmp_path: Path) -> None:
    list(play(board))
    save_svg(board, 12.0, tmp_path / "demo.svg")
    picture = (tmp_path / "demo.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "make&#160;demo" in picture
    assert "stock&#160;and&#160;money&#160;balance" in picture
