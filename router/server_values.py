"""Values that are each server's own, where the function alone does not tell: settings, and the numbers of objects.

Decides, by one node of a statement, whether what it computes is another value on each shard. What names a server's
state by itself (``pg_backend_pid()``, ``to_regclass()``) is in the lists of :mod:`router.builtins`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from router.builtins import names
from router.effect import NO_EFFECT, Runs
from router.tree import constant, strings

if TYPE_CHECKING:
    from router.effect import FunctionEffect
    from router.tree import Node

_OBJECTS: Final = frozenset(
    {"regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regnamespace", "regrole",
     "regcollation", "regconfig", "regdictionary", "regdatabase"}
)  # fmt: skip
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "name", "cstring", "json", "jsonb"})
#: They take an object's number, or a row of any types, for its name; all else may count with it.
_BY_NAME: Final = frozenset({"format", "concat", "concat_ws", "quote_literal", "quote_nullable", "to_json", "to_jsonb",
                             "pg_typeof", "count"})  # fmt: skip

# Settings that a client makes and every link gets; those of a transaction; and what all shards must have in common.
_CLIENTS: Final = names(
    """
    timezone datestyle intervalstyle search_path client_encoding application_name role session_authorization
    is_superuser server_version server_version_num server_encoding standard_conforming_strings integer_datetimes
    transaction_isolation transaction_read_only transaction_deferrable default_transaction_isolation
    default_transaction_read_only default_transaction_deferrable session_replication_role transform_null_equals
    """
)
_TRANSACTIONS: Final = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})


def of_one_server(kind: str, body: Node) -> FunctionEffect:
    """Return the effect of a node of which only the home shard may tell the value; no effect for all others."""
    if kind == "FuncCall":
        reason = _call(strings(body.get("funcname"))[-1:], body.get("args", ()))
    else:
        kept = strings(body["typeName"].get("names"))[-1:]
        number = kept and kept[0] not in _TEXTS and kept[0] not in _OBJECTS and is_object(body["arg"])
        reason = "the number of an object is each server's own" if number else ""
    return replace(NO_EFFECT, runs=Runs.HOME, if_audited=Runs.HOME, reason=reason) if reason else NO_EFFECT


def _call(name: tuple[str, ...], arguments: Any) -> str:
    if name == ("current_setting",):
        setting = _setting(arguments)
        if setting is None or (setting not in _CLIENTS and "." not in setting):
            return "a setting may be each server's own"
        return ""
    by_name = not name or name[0] in _BY_NAME or name[0].startswith("pg_get_")
    if not by_name and any("TypeCast" in argument and is_object(argument) for argument in arguments):
        return "the number of an object is each server's own"
    return ""


def _setting(arguments: Any) -> str | None:
    literal = constant(arguments[0]) if arguments else None
    return literal[1].lower() if literal is not None and isinstance(literal[1], str) else None


def is_object(node: Node) -> bool:
    """Whether a value is an object of a server: a number that is printed as a name."""
    if "FuncCall" in node:
        return strings(node["FuncCall"].get("funcname"))[-1:] == ("pg_typeof",)
    return "TypeCast" in node and names_object(node["TypeCast"])


def names_object(cast: Node) -> bool:
    """Whether a TypeCast makes an object of a server."""
    return bool(_OBJECTS.intersection(strings(cast["typeName"].get("names"))[-1:]))


def of_one_link(name: str, arguments: Any) -> bool:
    """Whether a call tells of the link that it runs on: of its transaction, or its temporary schema."""
    if name == "current_setting":
        setting = _setting(arguments)
        return setting is None or setting in _TRANSACTIONS
    return name == "current_schemas" and (not arguments or constant(arguments[0]) != ("boolean", False))
