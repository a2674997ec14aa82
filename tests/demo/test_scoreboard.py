"""The numbers on the screen and in the last line are what was told."""

import pytest
from scoreboard import Kill, Scoreboard


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(orders=10, seed=1)


def acknowledge(board: Scoreboard, client: str, *times: float) -> None:
    for at_s in times:
        board.acknowledged(at_s, client)


def test_in_flight_is_what_is_acknowledged_and_not_finished(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.1, 0.2, 0.3)
    board.finished(shipped=True)
    board.finished(shipped=False)
    assert (board.shipped, board.compensated, board.in_flight) == (1, 1, 1)


def test_acknowledgements_are_counted_by_second(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.1, 0.9, 2.0)
    acknowledge(board, "b", 2.5)
    assert board.per_second(3.2) == [2, 0, 2, 0]


def test_the_pause_is_the_longest_gap_of_one_client_around_the_kill(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.0, 0.9, 2.4, 2.6)
    acknowledge(board, "b", 0.5, 1.8, 2.1)
    board.killed(1.0, "n1")
    assert board.pause_s(board.kills[0]) == pytest.approx(1.5)


def test_a_gap_that_begins_shortly_after_the_kill_counts(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.9, 1.1, 3.1)
    board.killed(1.0, "n1")
    assert board.longest_pause_s == pytest.approx(2.0)


def test_gaps_before_and_long_after_a_kill_do_not_count(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.0, 5.0, 5.2, 15.5, 30.0)
    board.killed(5.1, "n1")
    # From 5.2 to 15.5 s it goes on after the kill; from 15.5 s on it is too late to be the kill's.
    assert board.longest_pause_s == pytest.approx(10.3)


def test_while_nothing_is_acknowledged_after_a_kill_its_pause_is_not_known(board: Scoreboard) -> None:
    acknowledge(board, "a", 0.5)
    board.killed(1.0, "n1")
    assert board.pause_s(Kill("n1", 1.0)) is None
    assert board.longest_pause_s == 0.0


def test_a_kill_is_an_event_that_the_listener_hears(board: Scoreboard) -> None:
    heard: list[tuple[float, str]] = []
    board.listener = lambda at_s, what: heard.append((at_s, what))
    board.killed(1.0, "n1")
    assert heard == list(board.events) == [(1.0, "kill -9 of the leader, node n1, with 0 orders in flight")]
