"""Long INSERTs whose rows leave out columns that sequences, home or the clock fill: from two rows to all of them.

The plan of two rows is a Filled: behind the values of each row stand those of the columns that are left out, as
parameters, with their numbers counted from row to row. This file finds that pattern in the two rows, and writes it
behind all others. What does not follow it is None: then the whole text is planned.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from router.plan import ByKeys, HomeShard, Parameter, Single, SplitInsert
from router.plan_steps import Computed, Filled, Moment
from router.planner import filling
from router.rewrite import cut_values
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.plan import KeyTerm, Plan
    from router.plan_steps import Value

_PARAMETER: Final = re.compile(r"\$([0-9]+)")
_PLANNED: Final = 2  # rows


class AllRows(NamedTuple):
    """The rows of a text, what stands between each and the next, and the place of the second that was planned."""

    rows: Sequence[str]
    between: Sequence[str]
    other: int


def filled(plan: Filled, found: AllRows, terms: Sequence[KeyTerm], known: int, alone: Plan | None) -> Filled | None:
    """Return the plan of all rows by that of two; ``known``: how many parameters are the client's own.

    ``terms`` are the keys that the rows give, none if they leave it out; ``alone`` is what ``plan.alone`` is for all.
    """
    if (alone is None) != (plan.alone is None) or not isinstance(alone, Single | SplitInsert | None):
        return None
    clock, each = _values(plan)
    if each is None or len(each) * len(found.rows) > filling.MAX_VALUES:
        return None
    first = known + 1 + len(clock)
    inner = plan.inner
    (parsed,) = parse(inner.text)
    cut = cut_values(parsed)
    behind = None if cut is None else _behind(cut.rows, found, first, len(each))
    if cut is None or behind is None:
        return None
    rows = tuple(behind.row(row, number) for number, row in enumerate(found.rows))
    planned = _inner(inner.plan, rows, terms, found.other, len(each))
    if planned is None:
        return None
    rest = inner.text[len(f"{cut.head}{cut.rows[0]}, {cut.rows[1]}") :]
    text = cut.head + "".join(part for pair in zip(rows, (*found.between, ""), strict=True) for part in pair) + rest
    last = first + len(each) * len(rows) - 1
    values = (*((clock,) if clock else ()), *((each,) * len(rows) if each else ()))
    return Filled(replace(inner, text=text, plan=planned, parameters=last), values, alone)


def _values(plan: Filled) -> tuple[tuple[Value, ...], tuple[Value, ...] | None]:
    """Return the moments of the clock, and what is computed for each of the two rows; None where that is no pattern."""
    values = list(plan.values)
    clock: tuple[Value, ...] = ()
    if values and isinstance(values[0][0], Moment):
        clock = values.pop(0)
    if not values:
        return clock, ()
    one = values[0]
    pattern = values == [one, one] and all(isinstance(value, Computed) for value in one)
    return clock, one if pattern else None


class _Behind(NamedTuple):
    """What stands behind the values of a row: texts, and between them parameters, so many for each row."""

    pieces: list[str]
    numbers: list[int]
    each: int

    def row(self, row: str, number: int) -> str:
        """Return a row with what stands behind its values."""
        step = number * self.each
        parts = [self.pieces[0]]
        for parameter, piece in zip(self.numbers, self.pieces[1:], strict=True):
            parts += (f"${parameter + step}", piece)
        return f"{row[:-1]}{''.join(parts)})"


def _behind(planned: Sequence[str], found: AllRows, first: int, each: int) -> _Behind | None:
    """Read what was put behind the first row's values, each of its parameters once, if it is so with the second."""
    row = found.rows[0]
    if len(planned) != _PLANNED or not planned[0].startswith(row[:-1]) or not planned[0].endswith(")"):
        return None
    text = planned[0][len(row) - 1 : -1]
    pieces, numbers, at = [], [], 0
    for parameter in _PARAMETER.finditer(text):
        number = int(parameter[1])
        if number >= first:
            pieces.append(text[at : parameter.start()])
            numbers.append(number)
            at = parameter.end()
    pieces.append(text[at:])
    behind = _Behind(pieces, numbers, each)
    once = sorted(numbers) == list(range(first, first + each))
    return behind if once and planned[1] == behind.row(found.rows[found.other], 1) else None


def _inner(plan: Plan, rows: tuple[str, ...], terms: Sequence[KeyTerm], other: int, each: int) -> Plan | None:
    """Return where the rows go, with what was filled in."""
    if isinstance(plan, Single) and isinstance(plan.target, ByKeys):
        same = not terms or (plan.target.terms == (terms[0],) and terms[other] == terms[0])
        given = terms or all(not isinstance(term, Parameter) for term in plan.target.terms)
        return plan if same and given else None
    if isinstance(plan, Single) and isinstance(plan.target, HomeShard):
        return plan if not each else None
    if not isinstance(plan, SplitInsert):
        return None
    if terms:
        keys = tuple(terms) if plan.keys == (terms[0], terms[other]) else None
    else:
        keys = _computed(plan.keys, len(rows), each)
    return None if keys is None else replace(plan, rows=rows, keys=keys)


def _computed(keys: Sequence[KeyTerm], rows: int, each: int) -> tuple[KeyTerm, ...] | None:
    """Return the keys of all rows, where they are among what is computed for each."""
    one, two = keys
    if not isinstance(one, Parameter) or not each or two != replace(one, number=one.number + each):
        return None
    return tuple(replace(one, number=one.number + each * row) for row in range(rows))
