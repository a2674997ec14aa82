"""Shows a scoreboard: as a live screen on a terminal, as lines anywhere else, and as an SVG picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from scoreboard import NodeView, Scoreboard

WIDTH = 100
LABEL_WIDTH = 13
BAR_WIDTH = 68
SPARKS = "▁▂▃▄▅▆▇█"
ROLE_STYLES = {"leader": ("●", "bold green"), "follower": ("○", "cyan"), "candidate": ("◌", "yellow")}
DOWN_STYLES = {"down": ("✗", "bold red")}
OTHER_STYLE = ("…", "yellow")
LINES_INTERVAL_S = 5.0


class View(Protocol):
    """Somewhere a run can be watched."""

    def show(self, at_s: float) -> None: ...

    def close(self, at_s: float) -> None: ...


class LiveView:
    """Redraws the whole screen in place."""

    def __init__(self, board: Scoreboard, console: Console) -> None:
        self._board = board
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, at_s: float) -> None:
        self._live.update(render(self._board, at_s), refresh=True)

    def close(self, at_s: float) -> None:
        """Leaves the last screen standing, with the verdict below it in full."""
        self._live.stop()
        self._live.console.print(render(self._board, at_s))
        for line in self._board.verdict:
            self._live.console.print(line, soft_wrap=True, highlight=False, markup=False)


class LinesView:
    """Prints a line for each event, and one about everything every few seconds."""

    def __init__(self, board: Scoreboard, out: TextIO) -> None:
        self._board = board
        self._out = out
        self._next_s = 0.0
        board.listener = self._print

    def show(self, at_s: float) -> None:
        if at_s >= self._next_s:
            self._next_s = at_s + LINES_INTERVAL_S
            self._print(at_s, status_line(self._board))

    def close(self, at_s: float) -> None:
        self._print(at_s, status_line(self._board))
        for line in self._board.verdict:
            print(line, file=self._out, flush=True)

    def _print(self, at_s: float, what: str) -> None:
        print(f"{at_s:6.1f} s  {what}", file=self._out, flush=True)


def status_line(board: Scoreboard) -> str:
    nodes = ", ".join(map(_node_words, board.nodes))
    counts = f"{board.shipped} shipped, {board.compensated} compensated, {board.in_flight} in flight"
    return f"{board.acknowledged_count}/{board.orders} orders acknowledged: {counts} | {nodes}"


def _node_words(node: NodeView) -> str:
    numbers = f" (term {node.term}, lag {node.lag})" if node.role in ROLE_STYLES else ""
    return f"{node.name} {node.role}{numbers}"


def render(board: Scoreboard, at_s: float) -> RenderableType:
    """The whole screen."""
    parts: list[RenderableType] = [_nodes(board), Text(), *_outcomes(board), Text(), *_pulse(board, at_s), Text()]
    parts += _events(board)
    title = f"[bold]orchestrator-cluster[/] · {board.orders} orders · seed {board.seed} · {at_s:.0f} s"
    return Panel(Group(*parts), title=title, title_align="left", border_style="blue", width=WIDTH, padding=(1, 2))


def _nodes(board: Scoreboard) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("node", "role", "term", "applied", "lag"):
        table.add_column(heading, justify="left" if heading in ("node", "role") else "right", min_width=6)
    for node in board.nodes:
        table.add_row(*_node_cells(node))
    return table


def _node_cells(node: NodeView) -> tuple[Text, ...]:
    mark, style = {**ROLE_STYLES, **DOWN_STYLES}.get(node.role, OTHER_STYLE)
    numbers = (node.term, node.applied, node.lag) if node.role in ROLE_STYLES else ("–", "–", "–")
    return Text(node.name, style="bold"), Text(f"{mark} {node.role:<10}", style), *(Text(str(n)) for n in numbers)


def _outcomes(board: Scoreboard) -> list[Text]:
    return [
        _bar("shipped", board.shipped, board.orders, "green"),
        _bar("compensated", board.compensated, board.orders, "yellow"),
        _bar("in flight", board.in_flight, board.orders, "blue"),
    ]


def _bar(name: str, count: int, total: int, style: str) -> Text:
    filled = min(BAR_WIDTH, -(-count * BAR_WIDTH // max(1, total)))
    rest = BAR_WIDTH - filled
    return Text.assemble(f"{name:<{LABEL_WIDTH}}", ("█" * filled, style), ("·" * rest, "dim"), f" {count:>5}")


def _pulse(board: Scoreboard, at_s: float) -> list[Text]:
    """The sparkline, and under it a mark for each kill with the pause that the clients saw."""
    counts = board.per_second(at_s)
    seconds = -(-len(counts) // BAR_WIDTH)  # of one column, so that a long run is squeezed and not cut
    rates = [sum(counts[start : start + seconds]) / seconds for start in range(0, len(counts), seconds)]
    highest = max(rates)
    line = "".join(SPARKS[int(rate * (len(SPARKS) - 1) / highest)] if rate else " " for rate in rates)
    sparks = Text(f"{line:<{BAR_WIDTH}}", "cyan")
    marks = Text("kill, pause  " if board.kills else "", "red")
    for kill in board.kills:
        column = int(kill.at_s) // seconds
        sparks.stylize("red", column, column + 1)
        marks.append(" " * (LABEL_WIDTH + column - len(marks.plain)))
        pause = board.pause_s(kill)
        marks.append("▲ ", "bold red")
        marks.append(f"{pause:.1f} s " if pause is not None else "… ", "red")
    return [Text.assemble(f"{'acks/s':<{LABEL_WIDTH}}", sparks, f" {highest:>4.0f} max"), marks]


def _events(board: Scoreboard) -> list[Text]:
    lines = [Text.assemble((f"{at_s:5.1f} s  ", "dim"), what) for at_s, what in board.events]
    for line in lines:
        line.truncate(WIDTH - 8, overflow="ellipsis")
    # Always the same number of lines, so that the screen does not jump.
    return lines + [Text()] * ((board.events.maxlen or 0) - len(lines))


def save_svg(board: Scoreboard, at_s: float, path: Path) -> None:
    """The final screen and the verdict as a picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render(board, at_s))
    for line in board.verdict:
        console.print(line, highlight=False, markup=False)
    console.save_svg(str(path), title="make demo")
