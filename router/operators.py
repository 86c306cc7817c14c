"""Which of a user's operators Postgres may choose for operands of built-in types, beside pg_catalog's own.

By the manual's "Operator Type Resolution": casts are never chained, and a candidate with more operands of exactly the
given types wins, then one whose operands are of preferred types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from router.relation import Cast, Operator

_BOTH: Final = 2
# For any two of these that pg_catalog compares or computes with, it has an operator that takes one of them as it is,
# or text, which is preferred.
_SCALARS: Final = frozenset(
    (
        *("bool", "bpchar", "bytea", "date", "float4", "float8", "int2", "int4", "int8", "interval", "name", "numeric"),
        *("oid", "text", "time", "timestamp", "timestamptz", "timetz", "uuid", "varchar"),
    )
)


def takes_built_in_types(operator: Operator, casts: Iterable[Cast], own: Collection[str]) -> bool:
    """Whether values of built-in types may become an operator's operands.

    ``own``: names of user-defined types, domains and enums aside; what casts make of their values says nothing of
    others' (pgvector has casts among its own). An operator that takes user-defined types on both sides has no operand
    as it is given, and loses among scalars.
    """
    implicit = [cast for cast in casts if cast.context == "i" and cast.source not in own]
    if len(operator.operands) == _BOTH:
        implicit = [cast for cast in implicit if cast.source not in _SCALARS]
    return {cast.target for cast in implicit}.issuperset(operator.operands)
