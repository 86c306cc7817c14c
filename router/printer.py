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

_CALL: Final = frozenset({"funcname", "args", "location", "funcformat", "agg_star", "agg_filter", "agg_distinct"})
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


class Unwritten(Exception):  # noqa: N818 - named for what the expression stays
    """A node of a kind that is not written here."""


def quoted(*names: str) -> str:
    """Return a dotted name, every part quoted."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(value: str) -> str:
    """Return a string literal that means ``value`` whatever standard_conforming_strings says."""
    escaped = value.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in escaped else f"'{escaped}'"


def expression(node: Node, override: Callable[[Node], str | None] | None = None) -> str | None:
    """Return a text that parses to this expression, None when none is sure. ``override`` as in Printer."""
    try:
        text = Printer(override).write(node)
        (found,) = parse(f"SELECT {text}")
    except (Unwritten, SyntaxFailure, ValueError, KeyError, RecursionError):
        return None
    targets = found.body.get("targetList", [])
    alike = len(targets) == 1 and found.body.keys() <= {"targetList", "limitOption", "op"}
    return text if alike and same(_plain(targets[0]["ResTarget"].get("val")), _plain(node)) else None


def _plain(value: Any) -> Any:
    """Leave out which of two spellings a call had: EXTRACT(YEAR FROM d) is pg_catalog.extract('year', d)."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "funcformat"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class Printer:
    """Writes expressions; ``override`` may give a text of its own for a node, and is asked first, from the top down."""

    def __init__(self, override: Callable[[Node], str | None] | None = None) -> None:
        self._override = override

    def write(self, node: Node) -> str:
        """Return the text of an expression; raises Unwritten."""
        if self._override is not None:
            text = self._override(node)
            if text is not None:
                return text
        kind, body = unwrap(node)
        writer = _WRITERS.get(kind)
        if writer is None:
            raise Unwritten
        return writer(self, body)

    def list(self, nodes: Iterable[Node]) -> str:
        """Return the texts of several expressions with commas between them."""
        return ", ".join([self.write(node) for node in nodes])


def _column(_printer: Printer, body: Node) -> str:
    names = strings(body["fields"])
    if "*" in names:
        raise Unwritten
    return quoted(*names)


def _parameter(_printer: Printer, body: Node) -> str:
    return f"${body['number']}"


def _constant(_printer: Printer, body: Node) -> str:
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


def _comparison(printer: Printer, body: Node) -> str:  # noqa: PLR0911 - one line for each form of the grammar
    kind, name = body["kind"], body.get("name", [])
    left = printer.write(body["lexpr"]) if "lexpr" in body else ""
    if kind in _BETWEEN:
        low, high = items(body["rexpr"])
        return f"({left} {_BETWEEN[kind]} {printer.write(low)} AND {printer.write(high)})"
    if kind == "AEXPR_IN":
        word = "IN" if strings(name) == ("=",) else "NOT IN"
        return f"({left} {word} ({printer.list(items(body['rexpr']))}))"
    right = printer.write(body["rexpr"])
    if kind == "AEXPR_OP":
        return f"({left} {_operator(name)} {right})" if left else f"({_operator(name)} {right})"
    if kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"}:
        return f"({left} {_operator(name)} {'ANY' if kind == 'AEXPR_OP_ANY' else 'ALL'} ({right}))"
    if kind in {"AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"}:
        return f"({left} IS {'' if kind == 'AEXPR_DISTINCT' else 'NOT '}DISTINCT FROM {right})"
    if kind == "AEXPR_NULLIF":
        return f"NULLIF({left}, {right})"
    return f"({left} {_MATCHES[kind, strings(name)[-1]]} {right})"


def _boolean(printer: Printer, body: Node) -> str:
    operator, arguments = body["boolop"], body["args"]
    if operator == "NOT_EXPR":
        return f"(NOT {printer.write(arguments[0])})"
    word = " AND " if operator == "AND_EXPR" else " OR "
    return f"({word.join(printer.write(argument) for argument in arguments)})"


def _null_test(printer: Printer, body: Node) -> str:
    return f"({printer.write(body['arg'])} {_NULL_TESTS[body['nulltesttype']]})"


def _boolean_test(printer: Printer, body: Node) -> str:
    return f"({printer.write(body['arg'])} {_BOOLEAN_TESTS[body['booltesttype']]})"


def type_name(printer: Printer, body: Node) -> str:
    """Return a TypeName as text."""
    if body.get("setof") or body.get("pct_type"):
        raise Unwritten
    modifiers = f"({printer.list(body['typmods'])})" if body.get("typmods") else ""
    return quoted(*strings(body["names"])) + modifiers + "[]" * len(body.get("arrayBounds", ()))


def _cast(printer: Printer, body: Node) -> str:
    return f"({printer.write(body['arg'])})::{type_name(printer, body['typeName'])}"


def _call(printer: Printer, body: Node) -> str:
    if body.keys() - _CALL:
        raise Unwritten
    distinct = "DISTINCT " if body.get("agg_distinct") else ""
    arguments = "*" if body.get("agg_star") else distinct + printer.list(body.get("args", ()))
    condition = f" FILTER (WHERE {printer.write(body['agg_filter'])})" if "agg_filter" in body else ""
    return f"{quoted(*strings(body['funcname']))}({arguments}){condition}"


def _case(printer: Printer, body: Node) -> str:
    subject = f" {printer.write(body['arg'])}" if "arg" in body else ""
    whens = "".join(
        f" WHEN {printer.write(item['CaseWhen']['expr'])} THEN {printer.write(item['CaseWhen']['result'])}"
        for item in body["args"]
    )
    otherwise = f" ELSE {printer.write(body['defresult'])}" if "defresult" in body else ""
    return f"(CASE{subject}{whens}{otherwise} END)"


def _extreme(printer: Printer, body: Node) -> str:
    return f"{'GREATEST' if body['op'] == 'IS_GREATEST' else 'LEAST'}({printer.list(body['args'])})"


def _row(printer: Printer, body: Node) -> str:
    explicit = "ROW" if body.get("row_format") == "COERCE_EXPLICIT_CALL" else ""
    return f"{explicit}({printer.list(body.get('args', ()))})"


def _collation(printer: Printer, body: Node) -> str:
    return f"({printer.write(body['arg'])} COLLATE {quoted(*strings(body['collname']))})"


_WRITERS: Final[dict[str, Callable[[Printer, Node], str]]] = {
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
    "CoalesceExpr": lambda printer, body: f"COALESCE({printer.list(body['args'])})",
    "MinMaxExpr": _extreme,
    "RowExpr": _row,
    "A_ArrayExpr": lambda printer, body: f"ARRAY[{printer.list(body.get('elements', ()))}]",
    "CollateClause": _collation,
}
