"""A book applies a call once per key, refuses who was overtaken, and knows after a restart what it knew before."""

import multiprocessing
from pathlib import Path

import pytest
from books import NOTHING, Book, BookDamaged, Effect, Entry, Moved, Refused, Request, Stale, read_book

TEN = Moved(amount_cents=1000)


def charge(key: str = "k", token: int = 1) -> Request:
    return Request("charge", "0001", key, token)


def refund(key: str = "undo-k", token: int = 9, undoes: str = "k") -> Request:
    return Request("refund", "0001", key, token, undoes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "payment.jsonl"


def effects(path: Path) -> list[Effect]:
    return [entry.effect for entry in read_book(path)]


def test_a_repeated_call_is_answered_as_the_first_and_moves_nothing(path: Path) -> None:
    with Book(path) as book:
        first = book.do(charge(token=1), lambda: TEN, "receipt-1")
        again = book.do(charge(token=2), lambda: TEN, "receipt-2")
    assert (first.effect, first.moved, first.answer) == (Effect.APPLIED, TEN, "receipt-1")
    assert (again.effect, again.moved, again.answer) == (Effect.REPEATED, NOTHING, "receipt-1")


def test_the_same_token_again_is_a_repetition_too(path: Path) -> None:
    with Book(path) as book:
        book.do(charge(token=1), lambda: TEN, "receipt")
        assert book.do(charge(token=1), lambda: TEN, "receipt").effect is Effect.REPEATED


def test_another_key_is_another_call(path: Path) -> None:
    with Book(path) as book:
        book.do(charge("k1"), lambda: TEN, "receipt")
        assert book.do(charge("k2"), lambda: TEN, "receipt").effect is Effect.APPLIED


def test_a_lower_fencing_token_is_refused(path: Path) -> None:
    with Book(path) as book:
        with pytest.raises(Refused):
            book.do(charge(token=5), no_money, "receipt")
        with pytest.raises(Stale):
            book.do(charge(token=4), lambda: TEN, "receipt")
        # The refused one does not lower the bar for the next.
        with pytest.raises(Stale):
            book.do(charge(token=3), lambda: TEN, "receipt")
        assert book.do(charge(token=6), lambda: TEN, "receipt").effect is Effect.APPLIED
    assert effects(path) == [Effect.REFUSED_BUSINESS, Effect.REFUSED_STALE, Effect.REFUSED_STALE, Effect.APPLIED]


def test_a_business_refusal_is_recorded_with_its_reason_and_moves_nothing(path: Path) -> None:
    with Book(path) as book, pytest.raises(Refused):
        book.do(charge(), no_money, "receipt")
    (entry,) = read_book(path)
    assert (entry.effect, entry.moved, entry.answer) == (Effect.REFUSED_BUSINESS, NOTHING, "no money")


def test_an_undo_gives_back_what_the_step_moved_once(path: Path) -> None:
    with Book(path) as book:
        book.do(charge(), lambda: TEN, "receipt")
        undone = book.undo(refund(token=9))
        again = book.undo(refund(token=10))
    assert (undone.effect, undone.moved) == (Effect.APPLIED, TEN)
    assert (again.effect, again.moved) == (Effect.REPEATED, NOTHING)


def test_an_undo_under_another_key_moves_nothing_either(path: Path) -> None:
    with Book(path) as book:
        book.do(charge(), lambda: TEN, "receipt")
        book.undo(refund("undo-k"))
        assert book.undo(refund("another")).effect is Effect.REPEATED
        assert book.undo(refund("another")).effect is Effect.REPEATED


def test_undoing_what_never_happened_is_applied_and_moves_nothing(path: Path) -> None:
    with Book(path) as book:
        undone = book.undo(refund())
    assert (undone.effect, undone.moved, undone.answer) == (Effect.APPLIED, NOTHING, "never happened")


def test_a_step_that_was_undone_before_it_happened_cannot_happen_any_more(path: Path) -> None:
    with Book(path) as book:
        book.undo(refund(token=2))
    with Book(path) as book, pytest.raises(Stale):
        book.do(charge(token=99), lambda: TEN, "receipt")


def test_an_overtaken_undo_is_refused(path: Path) -> None:
    with Book(path) as book:
        book.do(charge(), lambda: TEN, "receipt")
        book.undo(refund(token=9))
        with pytest.raises(Stale):
            book.undo(refund(token=8))


def test_after_a_restart_keys_tokens_and_undone_steps_are_known(path: Path) -> None:
    with Book(path) as book:
        book.do(charge("k1", 5), lambda: TEN, "receipt-1")
        book.do(charge("k2", 5), lambda: TEN, "receipt-2")
        book.undo(refund("u2", undoes="k2"))
    with Book(path) as book:
        assert book.do(charge("k1", 6), lambda: TEN, "other").answer == "receipt-1"
        with pytest.raises(Stale):
            book.do(charge("k1", 5), lambda: TEN, "other")
        with pytest.raises(Stale):
            book.do(charge("k2", 7), lambda: TEN, "other")
        assert book.undo(refund("u2", 10, undoes="k2")).effect is Effect.REPEATED


def test_who_follows_a_book_hears_the_same_live_and_after_a_restart(path: Path) -> None:
    live: list[Entry] = []
    with Book(path, live.append) as book:
        book.do(charge(), lambda: TEN, "receipt")
        book.do(charge(), lambda: TEN, "receipt")
        book.undo(refund())
    later: list[Entry] = []
    Book(path, later.append).close()
    assert later == live == read_book(path)


def test_a_line_that_was_being_written_at_the_crash_never_was(path: Path) -> None:
    with Book(path) as book:
        book.do(charge("k1"), lambda: TEN, "receipt")
        complete = path.read_bytes()
        book.do(charge("k2"), lambda: TEN, "receipt")
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    assert len(read_book(path)) == 1
    with Book(path) as book:
        assert path.read_bytes() == complete
        assert book.do(charge("k2"), lambda: TEN, "receipt").effect is Effect.APPLIED


def test_a_damaged_line_in_the_middle_is_an_error(path: Path) -> None:
    with Book(path) as book:
        book.do(charge("k1"), lambda: TEN, "receipt")
        book.do(charge("k2"), lambda: TEN, "receipt")
    path.write_bytes(b"{" + path.read_bytes())
    with pytest.raises(BookDamaged, match="line 1"):
        Book(path)


def test_a_second_process_waits_until_the_first_has_closed_the_book(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with Book(path) as book:
        book.do(charge(), lambda: TEN, "receipt")
        successor = spawn.Process(target=apply_once_more, args=(path,))
        successor.start()
        successor.join(1.0)
        assert successor.is_alive()
        assert effects(path) == [Effect.APPLIED]
    successor.join(20.0)
    assert successor.exitcode == 0
    assert effects(path) == [Effect.APPLIED, Effect.REPEATED]


def apply_once_more(path: Path) -> None:
    with Book(path) as book:
        book.do(charge(), lambda: TEN, "receipt")


def no_money() -> Moved:
    raise Refused("no money")
