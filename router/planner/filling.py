"""Values that are known only when a statement runs: from sequences, defaults that home computes, the clock.

Decides which values these are, and writes the statement anew with parameters in their places: it is then planned like
any other, and the keys among them are known at Bind. A key that a default or a function gives is so computed before
routing; a sequence is the home shard's and only its; ``now()`` is one value for all shards. What computes them is the
session's business.

Functions, triggers and views that ask for the time inside are not seen here: there it is each shard's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router import clock_words
from router.errors import Refused
from router.plan import HomeShard, Single, SplitInsert, Statement
from router.plan_steps import CLOCK_CALLS, Computed, Filled, Moment
from router.planner import asking, filling_set
from router.planner.filling_rows import Rows
from router.rewrite import group_end, spliced, uncovered
from router.tree import constant, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from router.plan_steps import Value
    from router.planner.context import Context
    from router.statement import Parsed
    from router.tree import Node

MAX_VALUES: Final = 60_000  # the protocol counts parameters in 16 bits
_TYPED: Final = re.compile(r"(date|time(stamp)?(tz|\s+with(out)?\s+time\s+zone)?)\s*", re.IGNORECASE)  # date 'today'
_CLOCKS: Final = frozenset({"SQLValueFunction", "FuncCall"})
_SETS: Final = frozenset({"InsertStmt", "UpdateStmt", "MergeStmt"})
_KEYWORDS: Final = {
    "SVFOP_CURRENT_DATE": ("current_date", "date"),
    "SVFOP_CURRENT_TIME": ("current_time", "timetz"),
    "SVFOP_CURRENT_TIMESTAMP": ("current_timestamp", ""),
    "SVFOP_LOCALTIME": ("localtime", "time"),
    "SVFOP_LOCALTIMESTAMP": ("localtimestamp", "timestamp"),
}


def planned(context: Context, planner: Callable[[Context], Statement]) -> Statement:
    """Plan a statement; one with values to be filled in is a Filled of the plan that it has with them."""
    if not context.many:
        return planner(context)
    return _mistaken(context) or _planned(context, planner)


def _mistaken(context: Context) -> Statement | None:
    """An INSERT that names a column twice goes to home as it is, to be told so."""
    columns = [entry["ResTarget"] for entry in context.body.get("cols", ())]
    names = [column["name"] for column in columns if "indirection" not in column]
    if len(set(names)) == len(names):
        return None
    return context.statement(Single(HomeShard(), writes=True), "INSERT")


def _planned(context: Context, planner: Callable[[Context], Statement]) -> Statement:
    alone: Statement | None = None
    refused: Refused | None = None
    try:
        alone = planner(context)
    except Refused as error:
        refused = error
    found = _rewritten(context)
    if found is None:
        if alone is None:
            return _with_subqueries(context, planner, _Rewritten("", (), needed=False), refused)
        return alone
    try:
        inner = planner(context.rewritten(found.text))
    except Refused as error:
        if alone is not None and not found.needed:
            return alone
        if not found.needed:
            return _with_subqueries(context, planner, found, refused or error)
        raise (error if found.needed or refused is None else refused) from None
    keeps = alone is not None and not found.needed and isinstance(alone.plan, Single | SplitInsert)
    own = alone.plan if alone is not None and isinstance(alone.plan, Single | SplitInsert) else None
    filled = Filled(inner, found.values, own if keeps else None)
    return context.like(inner, filled)


def _with_subqueries(
    context: Context, planner: Callable[[Context], Statement], found: _Rewritten, refused: Refused | None
) -> Statement:
    """Plan a statement whose subqueries are asked first; raises ``refused`` where that does not help."""
    for inside, asked in asking.ways(context.rewritten(found.text) if found.text else context):
        try:
            inner = planner(inside)
        except Refused:
            continue  # another way may do; where none does, the first refusal is told
        return context.like(inner, Filled(inner, (*found.values, *asked)))
    raise refused or AssertionError


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """A statement's text with parameters for values. ``needed``: some of them no shard could compute itself."""

    text: str
    values: tuple[tuple[Value, ...], ...]
    needed: bool


def _rewritten(context: Context) -> _Rewritten | None:
    filling = Values(context)
    filling.clocks(context.parsed)
    if context.parsed.kind in _SETS:
        rows = Rows(context, filling)
        filling_set.fill(context, filling, rows)
        if context.parsed.kind == "InsertStmt":
            rows.rewrite()
    return filling.done()


class Values:
    """Collects values and the places where their parameters go. Parameters of the clock come first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = max(context.parsed.parameters, len(context.reader.parameter_oids)) + 1
        self._moments: list[Moment] = []
        self._rows: list[tuple[Value, ...]] = []
        self._count = 0
        self._splices: list[tuple[int, int, str]] = []
        self.needed = False

    def splice(self, start: int, end: int, text: str) -> None:
        """Put ``text`` in the place of what is between two characters; a later one may cover an earlier one."""
        self._splices.append((start, end, text))

    def row(self, values: list[Computed]) -> list[str]:
        """Add the values of one row; returns their parameters."""
        self.needed = True
        first = self._count
        self._count += len(values)
        if self._count > MAX_VALUES:
            raise self._context.refuse("too-many-values")
        self._rows.append(tuple(values))
        return [f"\0{number}\0" for number in range(first, self._count)]

    @property
    def moments(self) -> tuple[Moment, ...]:
        """The moments whose parameters were asked for, in their order."""
        return tuple(self._moments)

    def moment(self, moment: Moment) -> str:
        """Return the parameter of a moment."""
        if moment not in self._moments:
            self._moments.append(moment)
        return f"${self._first + self._moments.index(moment)}"

    def clocks(self, parsed: Parsed) -> None:
        """Replace what reads the clock in a statement."""
        for start, end, text in self.clock_splices(parsed):
            self.splice(start, end, text)

    def clock_splices(
        self, parsed: Parsed, *, named: bool = True, among: Collection[int] | None = None
    ) -> list[tuple[int, int, str]]:
        """Return the replacements for what reads the clock. ``named``: output columns keep their names.

        ``among``: only in nodes whose bodies have these ids.
        """
        if not parsed.kinds & {"SQLValueFunction", "FuncCall", "TypeCast"}:
            return []
        found = []
        naming = _naming(parsed) if named else frozenset()
        for kind, body in parsed.nodes:
            if among is not None and id(body) not in among:
                continue
            if kind == "TypeCast":
                found += self._word(parsed, body)
                continue
            clock = self._clock(parsed, kind, body)
            if clock is None:
                continue
            start, end, name, value = clock
            # A column without a name of its own takes the function's: a sub-select's column has one.
            found.append((start, end, f'(SELECT {value} AS "{name}")' if id(body) in naming else f"({value})"))
        return found

    def _clock(self, parsed: Parsed, kind: str, body: Node) -> tuple[int, int, str, str] | None:
        """Return where a node that reads the clock is, its name, and what to put there; None for other nodes."""
        if kind not in _CLOCKS:
            return None
        tokens, precision = parsed.tokens, -1
        at = end = parsed.token_at(parsed.place(body.get("location", 0)))
        if kind == "SQLValueFunction" and body.get("op", "").removesuffix("_N") in _KEYWORDS:
            name, type_name = _KEYWORDS[body["op"].removesuffix("_N")]
            if body["op"].endswith("_N"):
                precision = body.get("typmod", 0)
                end = group_end(tokens, at + 1) or at
            value = f"{self.moment(Moment.TRANSACTION)}::pg_catalog.timestamptz"
        elif kind == "FuncCall" and self._is_clock(body):
            name, type_name = strings(body.get("funcname"))[-1], ""
            opening = next(index for index in range(at, len(tokens)) if tokens[index].name == "ASCII_40")
            end = group_end(tokens, opening) or opening
            value = f"{self.moment(CLOCK_CALLS[name])}::pg_catalog.timestamptz"
        else:
            return None
        if type_name or precision >= 0:
            value += f"::pg_catalog.{type_name or 'timestamptz'}" + (f"({precision})" if precision >= 0 else "")
        return tokens[at].start, tokens[end].end, name, value

    def word(self, node: Node, type_name: str) -> str | None:
        """Return what a literal means that is a word of the clock; None for all else."""
        literal = constant(node)
        if literal is None or literal[0] != "string" or clock_words.expression(literal[1], type_name, "") is None:
            return None
        return clock_words.expression(literal[1], type_name, self.moment(Moment.TRANSACTION))

    def _word(self, parsed: Parsed, body: Node) -> list[tuple[int, int, str]]:
        """Return the replacement in a cast of a word to a type of dates or times."""
        kind = body["typeName"]
        names = strings(kind.get("names"))
        own = names[:-1] != ("pg_catalog",) and (len(names) != 1 or self._context.reader.types_hidden)
        value = None if own or not names or "arrayBounds" in kind else self.word(body["arg"], names[-1])
        if value is None:
            return []
        tokens = parsed.tokens
        at = parsed.token_at(parsed.place(body["arg"]["A_Const"].get("location", 0)))
        cast = at + 1 < len(tokens) and tokens[at + 1].name == "TYPECAST"
        if cast or (at > 1 and [token.name for token in tokens[at - 2 : at]] == ["CAST", "ASCII_40"]):
            return [(tokens[at].start, tokens[at].end, value)]
        place = kind.get("location", 0)
        first = parsed.token_at(parsed.place(place)) if place >= 0 else at
        if "typmods" in kind or not _TYPED.fullmatch(parsed.text[tokens[first].start : tokens[at].start]):
            return []
        return [(tokens[first].start, tokens[at].end, f"({value}::pg_catalog.{names[-1]})")]

    def _is_clock(self, body: Node) -> bool:
        if strings(body.get("funcname"))[-1] not in CLOCK_CALLS or body.get("args"):
            return False
        effect = self._context.call_effect(body)
        return effect.clock and not effect.user_defined

    def done(self) -> _Rewritten | None:
        """Return the statement's new text and values, None when there is nothing to fill in."""
        if not self._splices or not (self._moments or self._rows):
            return None
        text = spliced(self._context.parsed.text[: self._context.parsed.end], uncovered(self._splices))
        behind = self._first + len(self._moments)
        pieces = text.split("\0")
        pieces[1::2] = [f"${behind + int(number)}" for number in pieces[1::2]]
        clock = [tuple(self._moments)] if self._moments else []
        return _Rewritten("".join(pieces), (*clock, *self._rows), self.needed)


def _naming(parsed: Parsed) -> frozenset[int]:
    """Return the ids of nodes that give an output column its name."""
    found: set[int] = set()
    for kind, body in parsed.nodes:
        if kind != "ResTarget" or "name" in body:
            continue
        node = body.get("val", {})
        while "TypeCast" in node or "CollateClause" in node:
            node = next(iter(node.values())).get("arg", {})
        found.update(id(inner) for inner in node.values())
    return frozenset(found)
