"""Runs generated statements, many in one packet, and compares."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from oracle.answers import Answer, Asker, frames
from oracle.compare import Kind, compare
from oracle.corpus import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oracle.generator import Generator

MODES = ("simple", "simple", "extended", "binary")
_SET_OPERATIONS = (" union ", " intersect ", " except ")
_MODIFIERS_FREE = frozenset({"modifiers free"})
SEVERAL = 12  # cases in one packet


def cases(generator: Generator, count: int) -> Iterator[list[Case]]:
    """Yield what belongs together: a query, or a change with a look at its table, in a block that is rolled back."""
    for number in range(count):
        where = f"seed {generator.seed}, statement {number}"
        if generator.odds(0.15):
            sql, table = generator.change()
            look = f"select * from {table.name}"
            yield [Case("", "begin"), Case(where, sql), Case(f"{where}, afterwards", look), Case("", "rollback")]
        else:
            sql = generator.query()
            yield [Case(where, sql, _MODIFIERS_FREE if any(word in sql for word in _SET_OPERATIONS) else frozenset())]


def run(generator: Generator, count: int, one: Asker, proxies: dict[int, Asker]) -> tuple[Counter[str], list[str]]:
    """Compare ``count`` statements; return how they ended, and the differences."""
    counts: Counter[str] = Counter()
    differences: list[str] = []
    waiting: list[list[Case]] = []
    for group in cases(generator, count):
        waiting.append(group)
        if len(waiting) == SEVERAL:
            _compare(generator, waiting, one, proxies, counts, differences)
            waiting = []
    _compare(generator, waiting, one, proxies, counts, differences)
    return counts, differences


def _compare(  # noqa: PLR0913, PLR0917 - what one packet needs
    generator: Generator,
    groups: list[list[Case]],
    one: Asker,
    proxies: dict[int, Asker],
    counts: Counter[str],
    differences: list[str],
) -> None:
    steps = [
        (case, generator.pick(*MODES) if case.where and len(group) == 1 else "simple")
        for group in groups
        for case in group
    ]
    packet = b"".join(frames(case, mode) for case, mode in steps)
    for asker in (one, *proxies.values()):
        asker.send(packet)
    expected = [one.read() for _ in steps]
    for shards, asker in proxies.items():
        got = [asker.read() for _ in steps]
        _judge(steps, expected, got, shards, counts, differences)


def _judge(  # noqa: PLR0913, PLR0917 - two answers and where to note it
    steps: list[tuple[Case, str]],
    expected: list[Answer],
    got: list[Answer],
    shards: int,
    counts: Counter[str],
    differences: list[str],
) -> None:
    refused = False
    for (case, mode), mine, theirs in zip(steps, expected, got, strict=True):
        if not case.where:
            refused = False
            continue
        if refused:
            continue  # the block has failed on one side only
        verdict = compare(case, mine, theirs)
        refused = verdict.kind is Kind.REFUSED
        if verdict.kind is Kind.DIFFERENT:
            differences.append(f"{case.where} [{shards} shards, {mode}]\n    {case.sql}\n    {verdict.note}")
            refused = True
        counts[verdict.kind.value] += 1
        if verdict.kind is Kind.REFUSED:
            counts[f"refused by {verdict.note}"] += 1
        elif verdict.kind is Kind.EQUAL:
            counts["failed alike" if mine.failed else "rows" if mine.rows else "no rows"] += 1
