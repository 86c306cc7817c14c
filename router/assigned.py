"""Which columns of a new row a trigger function gives other values, whatever the row is.

Decides by the text of a PL/pgSQL body: assignments to ``NEW.column`` that nothing stands before which could leave the
function, and that do not keep a value which is there. What is assigned under a condition is not told.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pglast.parser import ParseError, parse_plpgsql_json

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = r'\s*\.\s*("(?:[^"]|"")+"|[^\W\d][\w$]*)\s*'
_ASSIGNMENT: Final = re.compile(rf"\s*new{_NAME}:?=(.*)", re.IGNORECASE | re.DOTALL)
_KEPT: Final = re.compile(rf"\s*(?:coalesce\s*\(\s*)?(?:new|old){_NAME}(?:,|$)", re.IGNORECASE)
_GOING_ON: Final = frozenset({"PLpgSQL_stmt_assign", "PLpgSQL_stmt_perform", "PLpgSQL_stmt_execsql"})


@lru_cache(1024)
def surely_assigned(definition: str) -> frozenset[str]:
    """Return the columns of NEW that a function assigns; ``definition`` is its whole CREATE FUNCTION."""
    try:
        (function,) = json.loads(parse_plpgsql_json(definition))
        body = function["PLpgSQL_function"]["action"]["PLpgSQL_stmt_block"].get("body", [])
    except (ParseError, UnicodeEncodeError, RecursionError, LookupError, ValueError):
        return frozenset()
    return frozenset(_assigned(body))


def _assigned(statements: list[dict[str, Any]]) -> Iterator[str]:
    for statement in statements:
        ((kind, body),) = statement.items()
        if kind not in _GOING_ON:
            return
        found = _ASSIGNMENT.fullmatch(body.get("expr", {}).get("PLpgSQL_expr", {}).get("query", ""))
        if kind != "PLpgSQL_stmt_assign" or found is None:
            continue
        kept = _KEPT.match(found[2])
        if kept is None or _folded(kept[1]) != _folded(found[1]):
            yield _folded(found[1])


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
