"""The four sums: what may have moved after so many transactions, and what a torn or lost one looks like."""

from __future__ import annotations

import pytest

from bench.balances import QUERIES, Balances, complaints, parse_balances, total
from bench.model import SCENARIOS, BenchError

TPCB, UPDATE, TRANSFER = SCENARIOS["tpcb"], SCENARIOS["simple-update"], SCENARIOS["transfer"]


def test_no_history_yet_has_a_sum_of_null() -> None:
    assert parse_balances(["-5", "-5", "-5", "", "0"]) == Balances(-5, -5, -5, 0, 0)


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(BenchError, match="answers"):
        parse_balances(["1"] * (len(QUERIES) - 1))


def test_shards_are_added_up() -> None:
    assert total([Balances(1, 2, 3, 4, 5), Balances(10, 20, 30, 40, 50)]) == Balances(11, 22, 33, 44, 55)


def test_movement_is_between_two_readings() -> None:
    assert Balances(7, 7, 7, 7, 9).since(Balances(3, 3, 3, 3, 4)) == Balances(4, 4, 4, 4, 5)


@pytest.mark.parametrize(
    ("moved", "scenario"),
    [
        (Balances(-812, -812, -812, -812, 40), TPCB),
        (Balances(77, 0, 0, 77, 40), UPDATE),
        (Balances(0, 0, 0, 0, 80), TRANSFER),
    ],
)
def test_what_whole_transactions_do_is_right(moved: Balances, scenario: object) -> None:
    assert complaints(scenario, moved, 40) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["accounts", "tellers", "branches", "history"])
def test_any_sum_that_stays_behind_is_found(field: str) -> None:
    sums = {"accounts": 9, "tellers": 9, "branches": 9, "history": 9, "history_rows": 40} | {field: 8}
    assert "different amounts" in complaints(TPCB, Balances(**sums), 40)[0]


@pytest.mark.parametrize("rows", [39, 41])
def test_a_lost_or_doubled_transaction_is_found_in_the_history(rows: int) -> None:
    assert complaints(TPCB, Balances(9, 9, 9, 9, rows), 40) == [f"the history grew by {rows} rows, not 40"]


def test_half_a_transfer_is_found() -> None:
    assert "should have stood still" in complaints(TRANSFER, Balances(120, 0, 0, 0, 80), 40)[0]


def test_a_simple_update_must_leave_branches_alone() -> None:
    assert "branches +1" in complaints(UPDATE, Balances(5, 0, 1, 5, 40), 40)[0]
