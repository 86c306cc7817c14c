"""INSERT of many rows of plain values: planned by two of its rows, the others by one look at each.

A text of a thousand rows is a hundred kilobytes of tokens and as many nodes, and a planner that walks them holds up
everybody. But constants and parameters have no say in a plan, but for the key's, which says where its row belongs. So
this file cuts such a text into its rows by one expression, has the ordinary planner plan it with two of them, and puts
all rows where these were.

Decides which texts are plain enough for that, and which plans; whatever is in doubt takes the ordinary way:

1. The head is ``INSERT INTO name (columns) VALUES`` without comments, dollars or backslashes; the rows are as wide as
   each other and hold nothing but numbers, strings without backslashes, NULL, TRUE, FALSE and ``$n``; nothing stands
   behind them but ON CONFLICT or RETURNING. The short text is parsed as any other, and must have just these rows.
2. No string may be a word of the clock (``now``, ``today``): they are values that no shard may read by itself.
3. The plan sends the text whole, splits it at its rows, or puts values behind each row for columns that are left out
   (:mod:`router.planner.long_filled`). Other plans, refusals and syntax errors are made from the whole text.
4. Keys are read by :func:`router.keys.value_term`, like everywhere, and those of the two rows must be what the
   ordinary planner has found.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from router.errors import Refused, SyntaxFailure
from router.keys import value_term
from router.plan import ByKeys, Constant, HomeShard, Same, Scatter, Single, SplitInsert
from router.plan_steps import Filled
from router.planner import dml
from router.planner.context import OWN_SCHEMA, Context
from router.planner.long_filled import AllRows, filled
from router.statement import parse
from router.tree import items

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.catalog import Catalog
    from router.cluster import Database
    from router.keys import Reader
    from router.plan import KeyTerm, Plan, Statement
    from router.statement import Parsed
    from router.tree import Node

LONG_CHARACTERS: Final = 1024  # shorter texts are planned in less time than this takes to prepare
_MAX_END_CHARACTERS: Final = 16_384  # of the head, and of what stands behind the rows
_MAX_WIDTH: Final = 200
_MAX_ROW_CHARACTERS: Final = 1 << 16  # an expression holds the interpreter for the whole of a string
_FEWEST: Final = 2  # so many are planned
_NEAR: Final = 40
_PLAIN: Final = frozenset({"A_Const", "ParamRef"})
_DIGITS: Final = {"int4": 9, "int8": 18}  # an integer of so many digits is one, whatever its value

_BLANK: Final = r"[ \t\n\r\f\v]*+"
_NAME: Final = r'(?:[A-Za-z_][A-Za-z0-9_]*+|"(?:[^"]|"")++")'
_COMMA: Final = rf"{_BLANK},{_BLANK}"
_HEAD: Final = re.compile(
    rf"{_BLANK}INSERT[ \t\n\r\f\v]++INTO[ \t\n\r\f\v]*+{_NAME}(?:{_BLANK}\.{_BLANK}{_NAME}){{0,2}}{_BLANK}"
    rf"(?:\({_BLANK}{_NAME}(?:{_COMMA}{_NAME})*+{_BLANK}\){_BLANK})?"
    rf"VALUES{_BLANK}(?=\()",
    re.IGNORECASE | re.ASCII,
)
_STRING: Final = r"'[^'\\]*+(?:''[^'\\]*+)*+'"
_NUMBER: Final = r"-?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_PARAMETER: Final = r"\$[1-9][0-9]{0,4}+"
_VALUE: Final = rf"(?:{_STRING}|{_NUMBER}|{_PARAMETER}|(?:[nN][uU][lL][lL]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]))"
_KEY: Final = rf"({_STRING}|-?[0-9]{{1,18}}+|{_PARAMETER}|[nN][uU][lL][lL])"
_FIRST_ROW: Final = re.compile(rf"\({_BLANK}({_VALUE}(?:{_COMMA}{_VALUE})*+){_BLANK}\)")
_ONE: Final = re.compile(_VALUE)
_BEHIND: Final = re.compile(rf"{_BLANK}(?:;|$|(?:ON|RETURNING)\b)", re.IGNORECASE | re.ASCII)
_NUMBERS: Final = re.compile(rf"{_STRING}|\$([0-9]+)")
# The word comes first, so that the search looks for it alone; it must not be part of a longer one.
_CLOCK: Final = tuple(re.compile(rf"{word}(?<!\w{word})(?!\w)") for word in ("now", "today", "tomorrow", "yesterday"))


class _Head(NamedTuple):
    """The beginning of a text, its first row and how wide it is; ``words``: somewhere is one of the clock's."""

    text: str
    row: str
    width: int
    words: bool


class _Rows(NamedTuple):
    """The rows, what each has for its key, as it is written, what stands between the rows and what behind them."""

    rows: list[str]
    keys: list[str]
    between: list[str]
    tail: str


class LongValues:
    """Plans long INSERTs for one planner: ``plan_one`` is its way to plan one statement.

    ``seen``: gives the context in which a view that is written is a table.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        seen: Callable[[Context], Context],
        plan_one: Callable[[Parsed, tuple[str, ...], tuple[int, ...]], Statement],
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._seen = seen
        self._plan_one = plan_one

    def plan(self, text: str, search_path: tuple[str, ...], parameter_oids: tuple[int, ...]) -> Statement | None:
        """Return the plan of a text; None where only the ordinary way is sure."""
        head = None if len(text) < LONG_CHARACTERS else _head(text)
        if head is None:
            return None
        try:
            return self._plan(text, head, search_path, parameter_oids)
        except (Refused, SyntaxFailure):
            return None

    def _plan(
        self, text: str, head: _Head, search_path: tuple[str, ...], parameter_oids: tuple[int, ...]
    ) -> Statement | None:
        first = _insert(head.text + head.row, 1, head.width)
        if first is None:
            return None
        context = self._seen(Context(self._database, self._catalog, first, search_path, parameter_oids))
        key = _key(context, head.width) if context.many else None
        cut = _cut(text, head, -1 if key is None else key.position)
        if cut is None:
            return None
        terms: list[KeyTerm] = []
        if key is not None:
            for written in cut.keys:
                term = _term(context.reader, key, written)
                if term is None:
                    return None
                terms.append(term)
        other = next((at for at, term in enumerate(terms) if term != terms[0]), 1)
        short = _insert(f"{head.text}{cut.rows[0]}, {cut.rows[other]}{cut.tail}", 2, head.width)
        if short is None:
            return None
        highest = max(short.parameters, _highest(cut.rows))
        # Values that are filled in are numbered behind all parameters, also those of the other rows.
        oids = parameter_oids + (0,) * (highest - len(parameter_oids))
        statement = self._plan_one(short, search_path, oids)
        plan = _whole(statement.plan, cut, terms, other)
        if isinstance(statement.plan, Filled):
            alone = None if statement.plan.alone is None else _whole(statement.plan.alone, cut, terms, other)
            every = AllRows(cut.rows, cut.between, other)
            plan = filled(statement.plan, every, terms, max(highest, len(parameter_oids)), alone)
        if plan is None or (isinstance(plan, Scatter) and (head.words or bool(statement.parameters) != bool(highest))):
            return None  # which rows a reference table can take may depend on words and on there being parameters
        return replace(statement, text=text, plan=plan, parameters=highest)


def _whole(plan: Plan, cut: _Rows, terms: list[KeyTerm], other: int) -> Plan | None:
    """Return the plan of all rows by that of the first and another one; None: it is not one that has no more to it."""
    if isinstance(plan, SplitInsert):
        if not terms or plan.keys != (terms[0], terms[other]) or plan.rows != (cut.rows[0], cut.rows[other]):
            return None
        return replace(plan, rows=tuple(cut.rows), keys=tuple(terms))
    if isinstance(plan, Single) and isinstance(plan.target, ByKeys):
        same = not terms or (plan.target.terms == (terms[0],) and terms[other] == terms[0])
        return plan if same else None
    if isinstance(plan, Single) and isinstance(plan.target, HomeShard):
        return plan
    everywhere = isinstance(plan, Scatter) and isinstance(plan.combine, Same) and plan.text is plan.elsewhere is None
    return plan if everywhere else None


def _insert(text: str, rows: int, width: int) -> Parsed | None:
    """Return an INSERT, parsed, if its tree has so many rows of so many plain values."""
    found = parse(text)
    if len(found) != 1 or found[0].kind != "InsertStmt":
        return None
    query = found[0].body.get("selectStmt", {}).get("SelectStmt", {})
    lists = [items(row) for row in query.get("valuesLists", ())]
    plain = all(kind in _PLAIN for row in lists for value in row for kind in value)
    return found[0] if plain and [len(row) for row in lists] == [width] * rows else None


def _head(text: str) -> _Head | None:
    """Return the beginning of a text that may be planned here."""
    found = _HEAD.match(text, 0, _MAX_END_CHARACTERS)
    if found is None or "\\" in text:
        return None
    first = _FIRST_ROW.match(text, found.end(), found.end() + _MAX_ROW_CHARACTERS)
    if first is None:
        return None
    try:
        text.encode()  # what is no Unicode does not parse
    except UnicodeEncodeError:
        return None
    lower = text.lower()
    words = [match for word in _CLOCK for match in word.finditer(lower)]
    if OWN_SCHEMA in lower or any(_alone(lower, *match.span()) for match in words):
        return None
    width = len(_ONE.findall(first[1]))
    return _Head(found[0], first[0], width, bool(words)) if width <= _MAX_WIDTH else None


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a word may be all that its string says, but for blanks."""
    before, behind = text[max(start - _NEAR, 0) : start], text[end : end + _NEAR]
    return before.rstrip()[-1:] in {"'", ""} and behind.lstrip()[:1] in {"'", ""}


def _cut(text: str, head: _Head, key: int) -> _Rows | None:
    """Cut the rows out of a text; ``key``: which of the values is wanted, -1 for none. None: it is not that plain."""
    match, group = _row(head.width, key).match, 1 if key < 0 else 2
    rows: list[str] = []
    keys: list[str] = []
    between: list[str] = []
    end = at = len(head.text)
    while (found := match(text, at, at + _MAX_ROW_CHARACTERS)) is not None:
        rows.append(found[1])
        keys.append(found[group])
        end, at = found.end(1), found.end()
        if end == at:
            break
        between.append(text[end:at])
    tail = text[end:]
    if len(rows) < _FEWEST or len(tail) > _MAX_END_CHARACTERS or _BEHIND.match(tail) is None:
        return None
    return _Rows(rows, keys, between, tail)


@lru_cache(maxsize=256)
def _row(width: int, key: int) -> re.Pattern[str]:
    """Return what finds a row of so many values and the comma behind it; ``key``: which of them is a group."""
    values = [_KEY if at == key else _VALUE for at in range(width)]
    return re.compile(rf"(\({_BLANK}{_COMMA.join(values)}{_BLANK}\))(?:{_COMMA}(?=\())?")


class _Key(NamedTuple):
    """Which of a row's values is the key, and the type of its column."""

    position: int
    type_name: str
    type_modifier: int
    digits: int


def _key(context: Context, width: int) -> _Key | None:
    """Return where the rows have the key; None where they have none."""
    relation = context.relation(context.body["relation"])
    key = getattr(context.placement(relation), "key", "")
    names = (dml.columns_of(relation, context.body) or [])[:width]
    column = relation.column(key) if relation is not None and key in names else None
    if column is None:
        return None
    return _Key(names.index(key), column.type_name, column.type_modifier, _DIGITS.get(column.type_name, 0))


def _term(reader: Reader, key: _Key, written: str) -> KeyTerm | None:
    """Read a key as it is written in a row; None: not here."""
    if len(written) <= key.digits and written.isdigit():
        return Constant(int(written))
    return value_term(reader, _node(written), key.type_name, key.type_modifier)


def _node(written: str) -> Node:
    """Return the node that a literal or parameter is in the tree."""
    mark = written[:1]
    if mark == "'":
        return {"A_Const": {"sval": {"sval": written[1:-1].replace("''", "'")}}}
    if mark == "$":
        return {"ParamRef": {"number": int(written[1:])}}
    return {"A_Const": {"isnull": True} if mark in {"n", "N"} else {"ival": {"ival": int(written)}}}


def _highest(rows: list[str]) -> int:
    """Return the highest ``$n``."""
    found = [_NUMBERS.findall(row) for row in rows if "$" in row]
    return max((int(number) for numbers in found for number in numbers if number), default=0)
