"""The checker of histories finds what was planted, and nothing in a history that is right."""

from __future__ import annotations

import random

import pytest

from history import Append, Read, Told, Transaction, check

A, B, C = 1, 2, 3


def t(
    name: str, *operations: Append | Read, told: Told = Told.COMMITTED, rr: bool = True, **more: float
) -> Transaction:
    return Transaction(name, operations, told, rr, **more)


def w(key: int, value: int) -> Append:
    return Append(key, value)


def r(key: int, *values: int, statement: int = 0, began: float = 0.0) -> Read:
    return Read(key, values, statement, began)


def kinds(transactions: list[Transaction], final: dict[int, list[int]]) -> set[str]:
    return {anomaly.kind for anomaly in check(transactions, final)}


PLANTED: list[tuple[str, list[Transaction], dict[int, list[int]]]] = [
    ("G1a", [t("w", w(A, 1), told=Told.ABORTED), t("r", r(A, 1))], {A: []}),
    ("G1a", [t("w", w(A, 1), told=Told.ABORTED)], {A: [1]}),
    ("G1b", [t("w", w(A, 1), w(A, 2)), t("r", r(A, 1))], {A: [1, 2]}),
    ("incompatible order", [t("x", w(A, 1)), t("y", w(A, 2)), t("r", r(A, 2))], {A: [1, 2]}),
    ("duplicate", [t("x", w(A, 1))], {A: [1, 1]}),
    ("duplicate", [t("x", w(A, 1))], {A: [1, 7]}),
    ("lost write", [t("x", w(A, 1)), t("y", w(A, 2))], {A: [1]}),
    ("lost write", [t("x", w(A, 1), told=Told.UNKNOWN), t("r", r(A, 1))], {A: []}),
    ("lost write", [t("x", w(A, 1), w(B, 2), told=Told.UNKNOWN)], {A: [1], B: []}),
    ("internal", [t("x", w(A, 1), r(A))], {A: [1]}),
    ("internal", [t("x", r(A), r(A, 1, statement=1)), t("y", w(A, 1))], {A: [1]}),
    ("stale read", [t("x", w(A, 1), ended_s=1.0), t("r", r(A, began=2.0), rr=False)], {A: [1]}),
    ("stale read", [t("x", w(A, 1), ended_s=1.0), t("r", r(A), began_s=2.0)], {A: [1]}),
    ("fractured read", [t("x", w(A, 1), w(B, 2)), t("r", r(A, 1), r(B, statement=1))], {A: [1], B: [2]}),
    ("fractured read", [t("x", w(A, 1), w(B, 2)), t("r", r(A, 1), r(B), rr=False)], {A: [1], B: [2]}),
    ("lost update", [t("x", r(A), w(A, 1)), t("y", r(A), w(A, 2))], {A: [1, 2]}),
    ("G0", [t("x", w(A, 1), w(B, 2), rr=False), t("y", w(A, 3), w(B, 4), rr=False)], {A: [1, 3], B: [4, 2]}),
    ("G1c", [t("x", w(A, 1), r(B, 2), rr=False), t("y", w(B, 2), r(A, 1), rr=False)], {A: [1], B: [2]}),
    # R sees M, which has read S; R has not seen S.
    ("G-single", [t("S", w(A, 1)), t("M", r(A, 1), w(B, 2)), t("R", r(A), r(B, 2))], {A: [1], B: [2]}),
]


@pytest.mark.parametrize(("kind", "transactions", "final"), PLANTED, ids=[f"{p[0]}-{n}" for n, p in enumerate(PLANTED)])
def test_a_planted_anomaly_is_found(kind: str, transactions: list[Transaction], final: dict[int, list[int]]) -> None:
    assert kind in kinds(transactions, final)


RIGHT: list[tuple[str, list[Transaction], dict[int, list[int]]]] = [
    ("nothing", [], {}),
    ("unknown and not there", [t("x", w(A, 1), w(B, 1), told=Told.UNKNOWN)], {}),
    ("unknown and there", [t("x", w(A, 1), w(B, 1), told=Told.UNKNOWN)], {A: [1], B: [1]}),
    ("a read that began before the answer", [t("x", w(A, 1), ended_s=2.0), t("r", r(A, began=1.0))], {A: [1]}),
    ("a snapshot that is older", [t("x", w(A, 1), ended_s=2.0), t("r", r(A, began=3.0), began_s=1.0)], {A: [1]}),
    # Each is allowed at READ COMMITTED.
    ("lost update", [t("x", r(A), w(A, 1), rr=False), t("y", r(A), w(A, 2), rr=False)], {A: [1, 2]}),
    ("read skew", [t("x", w(A, 1), w(B, 2)), t("r", r(A, 1), r(B, statement=1), rr=False)], {A: [1], B: [2]}),
    ("not repeatable", [t("x", r(A), r(A, 1, statement=1), rr=False), t("y", w(A, 1))], {A: [1]}),
    # Allowed to snapshot isolation as well.
    ("write skew", [t("x", r(B), w(A, 1)), t("y", r(A), w(B, 2))], {A: [1], B: [2]}),
    # Allowed where snapshots of several shards are not ordered.
    (
        "long fork",
        [t("x", w(A, 1)), t("y", w(B, 2)), t("p", r(A, 1), r(B)), t("q", r(A), r(B, 2))],
        {A: [1], B: [2]},
    ),
]


@pytest.mark.parametrize(("transactions", "final"), [case[1:] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_what_is_allowed_is_not_reported(transactions: list[Transaction], final: dict[int, list[int]]) -> None:
    assert check(transactions, final) == []


def serial_history(seed: int, count: int) -> tuple[list[Transaction], dict[int, list[int]]]:
    """Make a history by running transactions one after the other; those that abort leave nothing."""
    choice = random.Random(seed)
    lists: dict[int, list[int]] = {key: [] for key in range(6)}
    made = []
    for number in range(count):
        mine = {key: list(values) for key, values in lists.items()}
        operations: list[Append | Read] = []
        for serial in range(choice.randint(1, 5)):
            key = choice.randrange(6)
            if choice.random() < 0.5:
                mine[key].append(number * 10 + serial)
                operations.append(Append(key, number * 10 + serial))
            else:
                operations.append(Read(key, tuple(mine[key]), serial, float(number)))
        told = choice.choices(list(Told), [8, 1, 1])[0]
        if told is Told.COMMITTED or (told is Told.UNKNOWN and choice.random() < 0.5):
            lists = mine
        ended = number + 0.5 if told is Told.COMMITTED else None
        made.append(Transaction(str(number), tuple(operations), told, choice.random() < 0.5, ended))
    return made, lists


@pytest.mark.parametrize("seed", range(5))
def test_serial_histories_are_clean_and_a_spoiled_one_is_not(seed: int) -> None:
    made, final = serial_history(seed, 300)
    assert check(made, final) == []
    choice = random.Random(seed)
    reading = [
        (index, place)
        for index, one in enumerate(made)
        if one.told is Told.COMMITTED
        for place, operation in enumerate(one.operations)
        if isinstance(operation, Read) and len(operation.values) > 1
    ]
    index, place = choice.choice(reading)
    victim = made[index]
    read = victim.operations[place]
    assert isinstance(read, Read)
    shorter = Read(read.key, read.values[:-1], read.statement, read.began_s)
    operations = (*victim.operations[:place], shorter, *victim.operations[place + 1 :])
    made[index] = Transaction(victim.name, operations, victim.told, victim.repeatable, victim.ended_s)
    assert check(made, final) != []


def test_values_that_are_not_unique_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="not unique"):
        check([t("x", w(A, 1)), t("y", w(A, 1))], {})
