"""Calls that make values of a type which no cast names: a type by its name in a text, the row type of an argument.

Decides which type such a call may mean, so that what its domains check is followed. Casts, column definitions and
declarations have the type in the parse tree.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pglast.parser import ParseError, parse_sql_json

from router.tree import constant, strings

if TYPE_CHECKING:
    from router.tree import Node

Parts = tuple[str, ...]

#: Any type that there is.
ANY_TYPE: Final = ("*",)
_BY_TEXT: Final = frozenset({"pg_input_is_valid", "pg_input_error_info"})  # the second argument
_BY_ROW: Final = frozenset(
    {"json_populate_record", "json_populate_recordset", "jsonb_populate_record", "jsonb_populate_recordset",
     "jsonb_populate_record_valid", "populate_record"}
)  # fmt: skip


def of_call(call: Node) -> Parts | None:
    """Return the type that a FuncCall makes values of, as parts of a name; None if its arguments say all."""
    name, arguments = strings(call.get("funcname"))[-1:], call.get("args", [])
    if not arguments or not name:
        return None
    if name[0] in _BY_ROW:
        return None if "TypeCast" in arguments[0] else ANY_TYPE
    if name[0] not in _BY_TEXT or len(arguments) < 2:  # noqa: PLR2004 - the value and the type
        return None
    return _in_text(arguments[1])


def _in_text(argument: Any) -> Parts:
    while "TypeCast" in argument:
        argument = argument["TypeCast"]["arg"]
    literal = constant(argument)
    return _parts(str(literal[1])) if literal is not None and literal[0] == "string" else ANY_TYPE


@lru_cache(256)
def _parts(text: str) -> Parts:
    try:
        (statement,) = json.loads(parse_sql_json(f"SELECT NULL::{text}"))["stmts"]
        (target,) = statement["stmt"]["SelectStmt"]["targetList"]
        return strings(target["ResTarget"]["val"]["TypeCast"]["typeName"]["names"])
    except (ParseError, UnicodeEncodeError, RecursionError, LookupError, ValueError):
        return ANY_TYPE
