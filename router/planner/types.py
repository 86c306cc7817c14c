"""Types of expressions, as far as merging rows of several shards needs them.

Decides nothing that it cannot be sure of: an expression whose type or collation follows from anything but plain
columns and a few built-ins has no type here, and what needs one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.tree import constant, strings, unwrap

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.planner.names import Names
    from router.planner.scope import Scope
    from router.tree import Node

BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID = 16, 17, 18, 19, 20, 21, 23, 25, 26
FLOAT4, FLOAT8, BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ = 700, 701, 1042, 1043, 1082, 1083, 1114, 1184
INTERVAL, TIMETZ, NUMERIC, UUID, PG_LSN, XID8 = 1186, 1266, 1700, 2950, 3220, 5069

_COLLATED: Final = frozenset({TEXT, VARCHAR, BPCHAR})
SORTABLE: Final = frozenset(
    {BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID, FLOAT4, FLOAT8, BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP,
     TIMESTAMPTZ, INTERVAL, TIMETZ, NUMERIC, UUID, PG_LSN, XID8}
)  # fmt: skip
"""What :mod:`proxy.executor.ordered` compares as Postgres does (text in the C collation only)."""

GROUPABLE: Final = frozenset(
    {BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ, UUID,
     PG_LSN, XID8, 790, 829, 774, 869, 650, 1560, 1562}
)  # fmt: skip
"""Types whose default btree operator class says that equal values have equal bytes (``equalimage``)."""

EXTREMES: Final = frozenset(
    {INT2, INT4, INT8, OID, FLOAT4, FLOAT8, DATE, TIME, TIMETZ, TIMESTAMP, TIMESTAMPTZ, INTERVAL, NUMERIC, TEXT}
)
SUMS: Final = {INT2: INT8, INT4: INT8, INT8: NUMERIC, NUMERIC: NUMERIC}
_WIDTH: Final = (INT2, INT4, INT8, NUMERIC)
_CASTS: Final = {
    "int2": INT2, "int4": INT4, "int8": INT8, "numeric": NUMERIC, "date": DATE, "timestamp": TIMESTAMP,
    "timestamptz": TIMESTAMPTZ, "bool": BOOL, "uuid": UUID, "float8": FLOAT8, "float4": FLOAT4,
}  # fmt: skip
_NAMES: Final = frozenset({("regclass",), ("pg_catalog", "regclass")})
_RESULTS: Final = {"count": INT8, "char_length": INT4}
# length() is float8 of an lseg or a path: int4 where the argument is seen to be none.
_WITH_LENGTH: Final = frozenset({BYTEA, NAME, TEXT, BPCHAR, VARCHAR, 1560, 1562})
_TEXTS: Final = frozenset(
    {"concat", "initcap", "lpad", "ltrim", "md5", "replace", "rpad", "rtrim", "to_char", "translate"}
)
_INT4_MAX: Final = (1 << 31) - 1
_INT8_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Type:
    """A type by OID. ``bytewise``: its collation sorts by bytes. ``deterministic``: equal means equal bytes."""

    oid: int
    bytewise: bool = True
    deterministic: bool = True
    modifier: int = -1

    @property
    def sortable(self) -> bool:
        """Whether the executor can merge by it."""
        return self.oid in SORTABLE and (self.oid not in _COLLATED or self.bytewise)

    @property
    def groupable(self) -> bool:
        """Whether equal bytes are equal values."""
        return self.deterministic and (self.oid in GROUPABLE or (self.oid == BPCHAR and self.modifier > 0))


class Types:
    """Infers types in one level."""

    def __init__(self, context: Context, scope: Scope, names: Names) -> None:
        self._context = context
        self._scope = scope
        self._names = names

    def of(self, node: Node) -> Type | None:
        """Return the type of an expression, None when it is not certain."""
        kind, body = unwrap(node)
        readers = {
            "TypeCast": self._cast,
            "FuncCall": self._call,
            "CoalesceExpr": self._common,
            "A_Expr": self._operator,
        }
        if kind == "ColumnRef":
            return self._column(node)
        if kind == "A_Const":
            return _literal(node)
        return readers[kind](body) if kind in readers else None

    def _column(self, node: Node) -> Type | None:
        found = self._scope.column(self._names.column(node))
        if found is None or found.type_schema != "pg_catalog" or not found.type_oid:
            return None
        return Type(found.type_oid, found.collates_as_c, found.deterministic, found.type_modifier)

    def _cast(self, body: Node) -> Type | None:
        names = strings(body.get("typeName", {}).get("names"))
        if body["typeName"].get("arrayBounds") or (len(names) > 1 and names[0] != "pg_catalog"):
            return None
        if len(names) == 1 and self._context.reader.types_hidden:
            return None
        inner = body["arg"].get("TypeCast", {}).get("typeName", {})
        if names[-1:] == ("text",) and strings(inner.get("names")) in _NAMES:
            return Type(TEXT, bytewise=False)  # of the database's own collation, and no other
        oid = _CASTS.get(names[-1]) if names else None
        return None if oid is None else Type(oid)

    def _common(self, body: Node) -> Type | None:
        """COALESCE: literals take the type of the others, which must agree."""
        nodes = body.get("args", [])
        found = {self.of(node) for node in nodes if constant(node) is None}
        literals = {_literal(node) for node in nodes if constant(node) is not None} - {None}
        if len(found) != 1:
            return None
        (only,) = found
        if only is None or any(item is None or item.oid not in _WIDTH or only.oid not in _WIDTH for item in literals):
            return None
        return only if all(_wider(only.oid, item.oid) == only.oid for item in literals if item is not None) else None

    def _operator(self, body: Node) -> Type | None:
        names = strings(body.get("name"))
        if body.get("kind") != "AEXPR_OP" or names not in {("+",), ("-",), ("*",), ("/",), ("%",)}:
            return None
        if self._context.catalog.operator_shadowed(names[0], self._context.search_path):
            return None
        right = self.of(body.get("rexpr", {}))
        if "lexpr" not in body:
            return right if right is not None and right.oid in _WIDTH else None
        left = self.of(body["lexpr"])
        if left is None or right is None or left.oid not in _WIDTH or right.oid not in _WIDTH:
            return None
        return Type(_wider(left.oid, right.oid))

    def _call(self, body: Node) -> Type | None:
        name = self.builtin(body)
        arguments = body.get("args", [])
        if name in _RESULTS:
            return Type(_RESULTS[name])
        if not arguments:
            return None
        if name == "length":
            return Type(INT4) if self._has_length(arguments[0]) else None
        if name == "date_trunc":
            source = self.of(arguments[-1])
            return source if source is not None and source.oid in {TIMESTAMP, TIMESTAMPTZ} else None
        inner = self.of(arguments[0]) if len(arguments) == 1 else None
        return None if inner is None else _of_one(name, inner)

    def _has_length(self, node: Node) -> bool:
        """Whether an expression is certainly text, bytes or bits."""
        kind, body = unwrap(node)
        if kind == "FuncCall":
            return self.builtin(body) in _TEXTS
        found = self.of(node)
        return found is not None and found.oid in _WITH_LENGTH

    def builtin(self, body: Node) -> str:
        """Return the name of a call of a pg_catalog function for certain, '' otherwise."""
        names = strings(body.get("funcname"))
        if self._context.call_effect(body).user_defined or (len(names) > 1 and names[0] != "pg_catalog"):
            return ""
        return names[-1] if names else ""


def _of_one(name: str, inner: Type) -> Type | None:
    """Return the type of a function of one argument of a type."""
    if name in {"min", "max"}:
        return extreme(inner)
    if name == "abs":
        return inner if inner.oid in _WIDTH else None
    if inner.oid not in SUMS or name not in {"sum", "avg"}:
        return None
    return Type(SUMS[inner.oid] if name == "sum" else NUMERIC)


def extreme(inner: Type) -> Type | None:
    """Return the type of min and max over a type."""
    if inner.oid in {VARCHAR, NAME}:
        inner = Type(TEXT, inner.bytewise, inner.deterministic)
    return inner if inner.oid in EXTREMES and inner.sortable else None


def _literal(node: Node) -> Type | None:
    found = constant(node)
    if found is None:
        return None
    kind, value = found
    if kind == "integer":
        return Type(INT4)
    if kind == "float":
        text = str(value)
        return Type(INT8) if text.lstrip("-").isdigit() and abs(int(text)) <= _INT8_MAX else Type(NUMERIC)
    return Type(BOOL) if kind == "boolean" else None


def _wider(one: int, other: int) -> int:
    return max(one, other, key=_WIDTH.index)
