"""Subqueries that fail when they are asked first: in one Postgres only a row that needs them would find out.

Theory of operation. What stands in a CASE that is not taken, behind a condition that is not met, or in an UPDATE that
finds no row, is never run by Postgres, and nobody sees what is wrong with it. So when a subquery fails that is asked
first, the statement is planned once more with an expression in its place that fails as well, but on the shard and only
when it is needed: its error has a mark in it, by which the client is told what the subquery had said instead
(``ClientTransaction.explain``). In a block the shard that said so has given up the transaction: then the statement is
refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.shards.errors import ShardError
from router.errors import Refused, refusal
from router.plan_steps import Filled, Shape
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.errors import ProxyError
    from proxy.session.session import Session
    from router.plan import Statement
    from router.plan_steps import Asked
    from router.resolve import KeyParameter

# What is wrong with rows and values, of which each row may have another; a lost link, say, is none of these.
_CLASSES: Final = ("21", "22", "2F", "38", "39", "P0")
_SHAPES: Final = frozenset({Shape.VALUE, Shape.LIST, Shape.EXISTS, Shape.ROW})
_KEPT: Final = 100  # of one session
_MARK: Final = "pgchorus-unasked-"


def marked(session: Session, value: Asked, error: ShardError | ProxyError) -> str:
    """Return the mark of an error that only a row shall see; raises it, or a refusal, where that cannot be."""
    if value.certain or value.shape not in _SHAPES or not error.sqlstate.startswith(_CLASSES):
        raise error
    transaction = session.transaction
    fields = error.fields if isinstance(error, ShardError) else error.fields()
    if value.shape is Shape.ROW or (isinstance(error, ShardError) and transaction.in_block):
        raise refusal("subquery-failed", detail=f"It says: {fields.message}") from error
    transaction.finish_statement()  # of the subquery
    if len(transaction.unasked) >= _KEPT:
        transaction.unasked.clear()
    transaction.marks += 1
    mark = f"{_MARK}{transaction.marks}"
    transaction.unasked[mark] = fields
    return mark


def with_marks(
    session: Session, inner: Statement, marks: Mapping[int, str], values: Sequence[KeyParameter]
) -> Statement:
    """Return the statement with what fails in the places of some parameters (by their number)."""
    text = inner.text
    for token in reversed(parse(text)[0].tokens):
        mark = marks.get(int(text[token.start + 1 : token.end])) if token.name == "PARAM" else None
        if mark is not None:
            text = text[: token.start] + _failing(mark, text[token.start : token.end]) + text[token.end :]
    planner = session.planner_in_block or session.database.planner
    oids = tuple(value.oid for value in values)
    try:
        statement = planner.plan_one(parse(text)[0], session.search_path, oids)
    except Refused as refused:
        raise refusal("subquery-failed", detail=refused.message) from refused
    if isinstance(statement.plan, Filled):
        raise refusal("subquery-failed")
    return statement


def _failing(mark: str, parameter: str) -> str:
    """Return an expression of a parameter's type that is an error wherever it is evaluated, and not before."""
    stem, number = mark.rsplit("-", 1)
    text = f"pg_catalog.concat('{stem}-', \"pgchorus\")::pg_catalog.int4"
    rows = f'pg_catalog.generate_series({number}, {number}) AS "pgchorus" ("pgchorus")'
    return f"(CASE WHEN (SELECT {text} FROM {rows}) IS NULL THEN {parameter} END)"  # noqa: S608 - made of numbers
