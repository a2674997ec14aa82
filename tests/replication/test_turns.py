"""Executions take turns; none is starved, and nothing is lost, taken twice or put out of its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.model import ExecutionKey
from orchestrator.replication.turns import Owner, Shares, Turns

LARGE, SMALL = ("default", "large"), ("default", "small")
PLENTY = 1_000


@dataclass(frozen=True)
class Waiting:
    """The number of something that waits, and its bytes."""

    number: int
    data: bytes = b"x"


def turns(*, usual: int = 4, beside: int = 3, alone: int = 10, alone_after: int = 1_000) -> Turns[Waiting]:
    return Turns(Shares(alone, usual, min(beside, usual), alone_after))


def put(queue: Turns[Waiting], execution: ExecutionKey | None, *numbers: int, now: float = 0.0) -> None:
    for number in numbers:
        queue.put(execution, Waiting(number), now)


def take(queue: Turns[Waiting], count: int = PLENTY, *, now: float = 0.0) -> tuple[list[int], dict[Owner, int]]:
    items, owners, _, _ = queue.take(count, PLENTY, now)
    return [item.number for item in items], owners


def test_executions_take_turns_each_in_its_own_order() -> None:
    queue = turns()
    put(queue, LARGE, 1, 2, 3)
    put(queue, SMALL, 11, 12)
    assert take(queue) == ([1, 11, 2, 12, 3], {LARGE: 3, SMALL: 2})
    assert (len(queue), queue.is_any_due) == (0, False)


def test_one_has_no_more_than_its_share_under_way() -> None:
    queue = turns(usual=4)
    put(queue, LARGE, *range(10))
    numbers, first = take(queue, 3)
    assert numbers == [0, 1, 2]
    assert take(queue) == ([3], {LARGE: 1})
    assert (queue.is_any_due, len(queue)) == (False, 6)
    assert take(queue)[0] == []
    put(queue, SMALL, 100)
    assert take(queue)[0] == [100]
    queue.give_back(first, 0.0)
    assert take(queue)[0] == [4, 5, 6]
    assert not queue.is_any_due


def test_what_comes_while_all_of_its_share_is_under_way_waits() -> None:
    queue = turns(usual=4)
    put(queue, LARGE, *range(4))
    _, under_way = take(queue)
    put(queue, LARGE, 4)
    assert not queue.is_any_due
    queue.give_back(under_way, 0.0)
    assert take(queue)[0] == [4]


def test_beside_others_the_share_of_an_entry_is_smaller_and_such_an_entry_is_not_large() -> None:
    for other in (SMALL, None):
        queue = turns(usual=4, beside=2)
        put(queue, LARGE, *range(20))
        put(queue, other, 100)
        items, owners, is_large, _ = queue.take(PLENTY, PLENTY, 0.0)
        assert (len(items), owners[LARGE], is_large) == (3, 2, False)
        items, owners, is_large, _ = queue.take(PLENTY, PLENTY, 0.0)
        assert (owners, is_large) == ({LARGE: 2}, False)


def test_two_large_ones_have_their_full_shares_of_an_entry() -> None:
    queue = turns(usual=4, beside=2)
    put(queue, LARGE, *range(20))
    put(queue, SMALL, *range(100, 120))
    _, owners, is_large, _ = queue.take(PLENTY, PLENTY, 0.0)
    assert (owners, is_large) == ({LARGE: 4, SMALL: 4}, True)


def test_who_has_had_entries_for_itself_has_a_larger_share_until_another_comes() -> None:
    queue = turns(usual=4, alone=10, alone_after=2)
    put(queue, LARGE, *range(100))

    def taken() -> int:
        numbers, owners = take(queue)
        queue.give_back(owners, 0.0)
        return len(numbers)

    assert [taken() for _ in range(4)] == [4, 4, 4, 10]
    put(queue, None, 100)
    # A timer, or the like, is no other execution.
    assert [taken() for _ in range(2)] == [4, 10]
    put(queue, SMALL, 101)
    assert [taken() for _ in range(4)] == [4, 4, 4, 10]
    _, first = take(queue)
    put(queue, SMALL, 102)
    assert take(queue)[0] == [102]
    queue.give_back(first, 0.0)
    assert [taken() for _ in range(3)] == [4, 4, 4]


def test_who_had_its_share_of_an_entry_comes_after_the_others_in_the_next() -> None:
    queue = turns(usual=20, beside=2)
    put(queue, LARGE, *range(9))
    put(queue, None, 100)
    assert take(queue)[0] == [0, 100, 1]
    put(queue, SMALL, 101, 102)
    assert take(queue, 3)[0] == [2, 101, 3]


def test_commands_of_no_execution_come_as_they_came_and_have_no_share() -> None:
    queue = turns(usual=1)
    put(queue, None, *range(5))
    assert take(queue) == ([0, 1, 2, 3, 4], {})


def test_an_entry_closes_at_its_bytes_but_for_the_first() -> None:
    queue = turns()
    for size in (400, 400, 5_000, 400):
        queue.put(None, Waiting(size, b"x" * size), 0.0)
    taken = [[item.number for item in queue.take(PLENTY, 1_000, 0.0).items] for _ in range(3)]
    assert taken == [[400, 400], [5_000], [400]]


def test_the_age_is_that_of_who_is_next() -> None:
    queue = turns(usual=2)
    assert queue.waiting_since is None
    put(queue, LARGE, 1, 2, 3, now=1.0)
    put(queue, SMALL, 11, now=2.0)
    _, first = take(queue, 1, now=3.0)
    # A turn of the large one is over, though its next command came before.
    assert queue.waiting_since == 2.0
    take(queue, 1, now=4.0)
    assert queue.waiting_since == 3.0
    take(queue, 1, now=5.0)
    assert queue.waiting_since is None
    queue.give_back(first, 6.0)
    assert queue.waiting_since == 6.0


def test_cleared_it_answers_what_waited_and_knows_what_is_under_way() -> None:
    queue = turns(usual=2)
    put(queue, LARGE, 1, 2, 3)
    _, under_way = take(queue)
    put(queue, None, 4)
    assert sorted(item.number for item in queue.clear()) == [3, 4]
    assert (len(queue), queue.is_any_due) == (0, False)
    put(queue, LARGE, 5)
    assert not queue.is_any_due
    queue.give_back(under_way, 0.0)
    assert take(queue)[0] == [5]


SHARES = st.tuples(st.integers(4, 9), st.integers(2, 4), st.integers(1, 2), st.integers(0, 3))
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3)),  # 0: of no execution
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("give back"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(SHARES, MOVES)
def test_everything_is_taken_once_in_the_order_of_its_execution(
    shares: tuple[int, int, int, int], moves: Sequence[tuple[str, int]]
) -> None:
    queue: Turns[Waiting] = Turns(Shares(*shares))
    waiting: dict[int, deque[int]] = {owner: deque() for owner in range(4)}
    of: dict[int, int] = {}
    held: list[dict[Owner, int]] = []

    def took(count: int) -> int:
        numbers, owners = take(queue, count)
        for number in numbers:
            assert waiting[of[number]].popleft() == number
        held.append(owners)
        for owner in owners:
            assert sum(one.get(owner, 0) for one in held) <= shares[0]
        return len(numbers)

    for number, (move, value) in enumerate(moves):
        if move == "put":
            of[number] = value
            waiting[value].append(number)
            put(queue, ("default", str(value)) if value else None, number)
        elif move == "take":
            took(value)
        elif held:
            queue.give_back(held.pop(value % len(held)), 0.0)
        assert len(queue) == sum(len(numbers) for numbers in waiting.values())
    while len(queue):
        while held:
            queue.give_back(held.pop(), 0.0)
        assert took(PLENTY), "what waits is never due"
