"""The line before a pool: neighbours that know each other, whoever leaves."""

from __future__ import annotations

from itertools import permutations

from proxy.shards.waiters import Waiter, WaitingLine


def test_whoever_leaves_the_others_stand_as_before() -> None:
    for order in permutations(range(4)):
        line, standing = WaitingLine(), [Waiter() for _ in range(4)]
        for waiter in standing:
            line.append(waiter)
        left = list(standing)
        for number in order:
            assert standing[number].queued
            line.remove(standing[number])
            left.remove(standing[number])
            assert not standing[number].queued
            assert list(line) == left
            assert line.first is (left[0] if left else None)
            assert bool(line) is bool(left)


def test_who_has_left_may_come_again_to_the_end() -> None:
    line, first, second = WaitingLine(), Waiter(), Waiter()
    line.append(first)
    line.append(second)
    line.remove(first)
    line.append(first)
    assert list(line) == [second, first]
    line.remove(second)
    line.remove(first)
    line.append(first)
    assert list(line) == [first]
