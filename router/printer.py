"""Expressions as text, for conditions that are sent where the original text does not go.

Decides how a parsed expression is written so that it parses to the same tree, and proves it by parsing the text again:
what would not be the same, or is of a kind that is not written here, has no text (None). Everything is put in
parentheses, names are always quoted, string literals read alike whatever standard_conforming_strings says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from router.errors import SyntaxFailure
from router.statement import parse
from router.tree import Node, items, same, strings, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PAIR: Final = 2
_NULL_TESTS: Final = {"IS_NULL": "IS NULL", "IS_NOT_NULL": "IS NOT NULL"}
_BOOLEAN_TESTS: Final = {
    "IS_TRUE": "IS TRUE", "IS_NOT_TRUE": "IS NOT TRUE", "IS_FALSE": "IS FALSE", "IS_NOT_FALSE": "IS NOT FALSE",
    "IS_UNKNOWN": "IS UNKNOWN", "IS_NOT_UNKNOWN": "IS NOT UNKNOWN",
}  # fmt: skip
_BETWEEN: Final = {
    "AEXPR_BETWEEN": "BETWEEN", "AEXPR_NOT_BETWEEN": "NOT BETWEEN", "AEXPR_BETWEEN_SYM": "BETWEEN SYMMETRIC",
    "AEXPR_NOT_BETWEEN_SYM": "NOT BETWEEN SYMMETRIC",
}  # fmt: skip
_MATCHES: Final = {
    ("AEXPR_LIKE", "~~"): "LIKE", ("AEXPR_LIKE", "!~~"): "NOT LIKE", ("AEXPR_ILIKE", "~~*"): "ILIKE",
    ("AEXPR_ILIKE", "!~~*"): "NOT ILIKE", ("AEXPR_SIMILAR", "~"): "SIMILAR TO",
    ("AEXPR_SIMILAR", "!~"): "NOT SIMILAR TO",
}  # fmt: skip


class _Unwritten(Exception):  # noqa: N818 - named for what the expression stays
    """A node of a kind that is not written here."""


def quoted(*names: str) -> str:
    """Return a dotted name, every part quoted."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(value: str) -> str:
    """Return a string literal that means ``value`` whatever standard_conforming_strings says."""
    escaped = value.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in escaped else f"'{escaped}'"


def expression(node: Node) -> str | None:
    """Return a text that parses to this expression, None when there is none that is sure."""
    try:
        text = _write(node)
        (found,) = parse(f"SELECT {text}")
    except (_Unwritten, SyntaxFailure, ValueError, KeyError, RecursionError):
        return None
    targets = found.body.get("targetList", [])
    alike = len(targets) == 1 and found.body.keys() <= {"targetList", "limitOption", "op"}
    return text if alike and same(_plain(targets[0]["ResTarget"].get("val")), _plain(node)) else None


def _plain(value: Any) -> Any:
    """Leave out which of two spellings a call had: EXTRACT(YEAR FROM d) is pg_catalog.extract('year', d)."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "funcformat"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _write(node: Node) -> str:
    kind, body = unwrap(node)
    writer = _WRITERS.get(kind)
    if writer is None:
        raise _Unwritten
    return writer(body)


def _list(nodes: Iterable[Node]) -> str:
    return ", ".join(_write(node) for node in nodes)


def _column(body: Node) -> str:
    names = strings(body["fields"])
    if "*" in names:
        raise _Unwritten
    return quoted(*names)


def _parameter(body: Node) -> str:
    return f"${body['number']}"


def _constant(body: Node) -> str:
    if body.get("isnull"):
        return "NULL"
    if "sval" in body:
        return literal(body["sval"].get("sval", ""))
    if "boolval" in body:
        return "true" if body["boolval"].get("boolval") else "false"
    if "bsval" in body:
        text = body["bsval"].get("bsval", "")
        return f"{text[:1]}'{text[1:]}'"
    text = str(body["ival"].get("ival", 0)) if "ival" in body else body["fval"]["fval"]
    return f"({text})" if text.startswith("-") else text


def _operator(names: list[Node]) -> str:
    parts = strings(names)
    symbol = parts[-1]
    if len(parts) == 1:
        return symbol
    return f"OPERATOR({quoted(*parts[:-1])}.{symbol})"


def _comparison(body: Node) -> str:  # noqa: PLR0911 - one line for each form of the grammar
    kind, name = body["kind"], body.get("name", [])
    left = _write(body["lexpr"]) if "lexpr" in body else ""
    if kind in _BETWEEN:
        low, high = items(body["rexpr"])
        return f"({left} {_BETWEEN[kind]} {_write(low)} AND {_write(high)})"
    if kind == "AEXPR_IN":
        word = "IN" if strings(name) == ("=",) else "NOT IN"
        return f"({left} {word} ({_list(items(body['rexpr']))}))"
    right = _write(body["rexpr"])
    if kind == "AEXPR_OP":
        return f"({left} {_operator(name)} {right})" if left else f"({_operator(name)} {right})"
    if kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"}:
        return f"({left} {_operator(name)} {'ANY' if kind == 'AEXPR_OP_ANY' else 'ALL'} ({right}))"
    if kind in {"AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"}:
        return f"({left} IS {'' if kind == 'AEXPR_DISTINCT' else 'NOT '}DISTINCT FROM {right})"
    if kind == "AEXPR_NULLIF":
        return f"NULLIF({left}, {right})"
    return f"({left} {_MATCHES[kind, strings(name)[-1]]} {right})"


def _boolean(body: Node) -> str:
    operator, arguments = body["boolop"], body["args"]
    if operator == "NOT_EXPR":
        return f"(NOT {_write(arguments[0])})"
    word = " AND " if operator == "AND_EXPR" else " OR "
    return f"({word.join(_write(argument) for argument in arguments)})"


def _null_test(body: Node) -> str:
    return f"({_write(body['arg'])} {_NULL_TESTS[body['nulltesttype']]})"


def _boolean_test(body: Node) -> str:
    return f"({_write(body['arg'])} {_BOOLEAN_TESTS[body['booltesttype']]})"


def type_name(body: Node) -> str:
    """Return a TypeName as text."""
    if body.get("setof") or body.get("pct_type"):
        raise _Unwritten
    modifiers = f"({_list(body['typmods'])})" if body.get("typmods") else ""
    return quoted(*strings(body["names"])) + modifiers + "[]" * len(body.get("arrayBounds", ()))


def _cast(body: Node) -> str:
    return f"({_write(body['arg'])})::{type_name(body['typeName'])}"


def _call(body: Node) -> str:
    if body.keys() - {"funcname", "args", "location", "funcformat"}:
        raise _Unwritten
    return f"{quoted(*strings(body['funcname']))}({_list(body.get('args', ()))})"


def _case(body: Node) -> str:
    subject = f" {_write(body['arg'])}" if "arg" in body else ""
    whens = "".join(
        f" WHEN {_write(item['CaseWhen']['expr'])} THEN {_write(item['CaseWhen']['result'])}" for item in body["args"]
    )
    otherwise = f" ELSE {_write(body['defresult'])}" if "defresult" in body else ""
    return f"(CASE{subject}{whens}{otherwise} END)"


def _extreme(body: Node) -> str:
    return f"{'GREATEST' if body['op'] == 'IS_GREATEST' else 'LEAST'}({_list(body['args'])})"


def _row(body: Node) -> str:
    explicit = "ROW" if body.get("row_format") == "COERCE_EXPLICIT_CALL" else ""
    return f"{explicit}({_list(body.get('args', ()))})"


def _collation(body: Node) -> str:
    return f"({_write(body['arg'])} COLLATE {quoted(*strings(body['collname']))})"


_WRITERS: Final[dict[str, Callable[[Node], str]]] = {
    "ColumnRef": _column,
    "ParamRef": _parameter,
    "A_Const": _constant,
    "A_Expr": _comparison,
    "BoolExpr": _boolean,
    "NullTest": _null_test,
    "BooleanTest": _boolean_test,
    "TypeCast": _cast,
    "FuncCall": _call,
    "CaseExpr": _case,
    "CoalesceExpr": lambda body: f"COALESCE({_list(body['args'])})",
    "MinMaxExpr": _extreme,
    "RowExpr": _row,
    "A_ArrayExpr": lambda body: f"ARRAY[{_list(body.get('elements', ()))}]",
    "CollateClause": _collation,
}
