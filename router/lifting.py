"""Literal lifting: one plan for all texts that differ only in their integers.

A client of the simple protocol writes its values into its text, so the same statement comes as ever new texts. This
file cuts the integers out of a text by one regular expression; what is left is the *template*. A plan is kept for a
template only when it is sure not to depend on them, but for a key that is one of them:

1. The text is plain enough for the expression to be right: ASCII, and no quote, dollar, backslash or comment in it. An
   integer counts only if no letter, digit, underscore, dot, dollar or ampersand is beside it, and if it has at most
   nine digits, so that it is an int4 whatever its value.
2. The plan is that of a SELECT, INSERT, UPDATE or DELETE which goes to one shard as it came: the shard gets the
   original text, so nothing but the choice of the shard can be wrong.
3. The plan has been tried: probe texts with other integers, all different, were planned from scratch, and gave the
   same plan with the key at the same place. ``a.k = 5 AND b.k = 5`` fails this, because its probes have two keys.

Pure; who keeps templates is :mod:`router.planned`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from router.errors import Refused, SyntaxFailure
from router.plan import AnyShard, ByKeys, Constant, HomeShard, Single
from router.plan_steps import Filled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from router.plan import Statement

MAX_TEXT_CHARACTERS: Final = 4096
MAX_HOLES: Final = 64
_UNSAFE: Final = re.compile(r"""['"$\\]|--|/\*""")
_INTEGER: Final = re.compile(r"(?<![\w.$&])(\d{1,9})(?![\w.])", re.ASCII)
_TAGS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
# Probe integers: nine digits, all different, none likely to stand in a text.
_PROBES: Final = ((912_345_001, 7919), (500_000_003, 104_729))

Template = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lifted:
    """A template's plan. ``hole`` is the index of the integer that is the key; None when the plan has no key.

    ``filled``: the template of the text with the clock's parameters, where the plan has one (Filled).
    """

    statement: Statement
    key_type: str
    hole: int | None
    filled: Template | None = None


def lift(text: str) -> tuple[Template, list[str]] | None:
    """Return the template of a text and the integers cut out of it; None when the text is not plain enough."""
    if len(text) > MAX_TEXT_CHARACTERS or not text.isascii() or _UNSAFE.search(text) is not None:
        return None
    pieces = _INTEGER.split(text)
    if not 1 < len(pieces) <= 2 * MAX_HOLES:
        return None
    return tuple(pieces[::2]), pieces[1::2]


def fill(template: Template, integers: Sequence[str]) -> str:
    """Return the text that ``lift`` cuts into these parts."""
    parts = [template[0]]
    for integer, piece in zip(integers, template[1:], strict=True):
        parts += (integer, piece)
    return "".join(parts)


def learn(
    template: Template,
    integers: Sequence[str],
    planned: Sequence[Statement],
    plan: Callable[[str], Sequence[Statement]],
) -> Lifted | None:
    """Return the plan for all texts of a template, or None when there is none that is sure.

    ``planned`` is what the text with ``integers`` gave, ``plan`` plans a text from scratch.
    """
    learned = None
    for first, step in _PROBES:
        values = [first + step * number for number in range(len(integers))]
        try:
            probed = plan(fill(template, [str(value) for value in values]))
        except (Refused, SyntaxFailure):
            return None
        read = _read(probed, values)
        if read is None or learned not in (None, read):
            return None
        learned = read
    if learned is None:
        return None
    text = planned[0].text
    return learned if list(planned) == [apply(learned, text, integers)] else None


def _read(planned: Sequence[Statement], values: Sequence[int]) -> Lifted | None:  # noqa: PLR0911 - one for each doubt
    """Say where the key of a probe's plan stands among its values; None when it is no plan to be lifted."""
    if len(planned) != 1:
        return None
    statement = planned[0]
    plan = statement.plan
    if isinstance(plan, Filled):
        return _read_filled(statement, plan, values)
    if not isinstance(plan, Single) or statement.tag not in _TAGS or statement.set_config:
        return None
    bare = replace(statement, text="")
    target = plan.target
    if isinstance(target, HomeShard | AnyShard):
        return Lifted(bare, "", None)
    if not isinstance(target, ByKeys) or len(target.terms) != 1:
        return None
    term = target.terms[0]
    if not isinstance(term, Constant) or not isinstance(term.value, int) or term.value not in values:
        return None
    bare = replace(bare, plan=Single(ByKeys(target.key_type, ()), plan.writes))
    return Lifted(bare, target.key_type, values.index(term.value))


def _read_filled(statement: Statement, plan: Filled, values: Sequence[int]) -> Lifted | None:
    """A statement with the clock in it: its other text has the same integers, and goes to the same shard."""
    inner, alone = plan.inner, plan.alone
    if not isinstance(alone, Single) or inner.plan != alone:
        return None
    read = _read([replace(statement, plan=alone)], values)
    pieces, rest = [], inner.text
    for value in values:
        piece, found, rest = rest.partition(str(value))
        if not found:
            return None
        pieces.append(piece)
    if read is None:
        return None
    bare = replace(plan, inner=replace(inner, text="", plan=read.statement.plan), alone=None)
    return replace(read, statement=replace(statement, text="", plan=bare), filled=(*pieces, rest))


def apply(lifted: Lifted, text: str, integers: Sequence[str]) -> Statement:
    """Return the plan of a text whose template was learned."""
    statement = lifted.statement
    filled = statement.plan
    if isinstance(filled, Filled) and lifted.filled is not None:
        inner = apply(replace(lifted, statement=filled.inner, filled=None), fill(lifted.filled, integers), integers)
        alone = inner.plan if isinstance(inner.plan, Single) else None
        return replace(statement, text=text, plan=replace(filled, inner=inner, alone=alone))
    if lifted.hole is None:
        return replace(statement, text=text)
    plan = statement.plan
    assert isinstance(plan, Single)  # noqa: S101 - narrows the type: nothing else is learned
    key = Constant(int(integers[lifted.hole]))
    return replace(statement, text=text, plan=Single(ByKeys(lifted.key_type, (key,)), plan.writes))
