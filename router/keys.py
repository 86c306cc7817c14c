"""Predicates and VALUES -> key values: the only reader of predicates.

Decides which conditions say "this column equals that value" by the hash's own equality, and what follows from them.
Leaves to :mod:`router.planner.scope` which names mean which columns and where a condition holds.

A condition counts only if Postgres would use ``=`` of pg_catalog between operands of one *family* (integers; text and
varchar; char(n); uuid): ``int8 = float8`` matches two keys, a COLLATE or a user's operator may
mean anything. What does not count is no error: it only does not route.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from router.plan import Constant, Elements, KeyTerm, Parameter, RoutingTerm
from router.sharding import (
    ARRAY_TYPE_OIDS,
    INTEGER_TYPES,
    KEY_TYPE_OIDS,
    PADDED,
    TEXT_TYPES,
    UnsureKey,
    parse_key_text,
    stored_key,
)
from router.tree import Node, constant, strings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INTEGER: Final = "int8"
TEXT: Final = "text"
UUID: Final = "uuid"
_UNKNOWN_OIDS: Final = frozenset({0, 705})
_INT8: Final = 1 << 63
_MANY: Final = 2


def family(type_name: str) -> str | None:
    """Return the family of a type: values of one family are equal when the hash says so. None: not a key's type."""
    if type_name in INTEGER_TYPES:
        return INTEGER
    if type_name in TEXT_TYPES:
        return TEXT
    return type_name if type_name in {UUID, PADDED} else None


def tells(operand: str | None, key: str | None) -> bool:
    """Whether a value of one family that a key of another equals says where that key is.

    A char(n) that equals a text is that text without the blanks at its end, which its hash ignores; a varchar that
    equals a char(n) may have any number of them.
    """
    return operand is not None and (operand == key or (key == PADDED and operand == TEXT))


@dataclass(frozen=True, slots=True)
class ColumnId:
    """A column of one range table entry of one query level. ``family`` None: its equality is not the hash's.

    ``turned``: named by way of USING, which has made its type that of the other side's column, or may have.
    """

    source: int
    name: str
    family: str | None
    turned: bool = field(default=False, compare=False)


Member = ColumnId | Constant | Parameter


@dataclass(eq=False)
class Facts:
    """What holds for every row that matters here; a nullable side of an outer join adds to its parent's facts.

    ``equal``: pairs that are equal. ``among``: columns that have one of several values.
    """

    parent: Facts | None = None
    equal: list[tuple[Member, Member]] = field(default_factory=list)
    among: list[tuple[ColumnId, tuple[RoutingTerm, ...]]] = field(default_factory=list)

    def chain(self) -> list[Facts]:
        """Return these facts and those they build on."""
        return [self, *(self.parent.chain() if self.parent else [])]

    def class_of(self, member: Member) -> set[Member]:
        """Return everything that is equal to ``member`` here. Lists are short: a fixed point is cheap."""
        pairs = [pair for facts in self.chain() for pair in facts.equal]
        found: set[Member] = {member}
        grown = True
        while grown:
            grown = False
            for left, right in pairs:
                if (left in found) != (right in found):
                    found.update((left, right))
                    grown = True
        return found

    def same(self, left: Member, right: Member) -> bool:
        """Whether two columns are equal in every row that matters."""
        return right in self.class_of(left)

    def add(self, column: ColumnId, terms: tuple[RoutingTerm, ...]) -> None:
        """Note that a column has one of these values."""
        term = only(terms)
        if term is None:
            self.among.append((column, terms))
        else:
            self.equal.append((column, term))

    def terms(self, column: ColumnId) -> tuple[RoutingTerm, ...] | None:
        """Return the fewest values that ``column`` can have, or None when nothing is known.

        Of several that must all hold, one constant is enough: rows that satisfy all of them are on its shard.
        """
        members = self.class_of(column)
        constants = [member for member in members if isinstance(member, Constant)]
        if constants:
            return (min(constants, key=repr),)
        parameters = [member for member in members if isinstance(member, Parameter)]
        if parameters:
            return (min(parameters, key=lambda item: item.number),)
        choices = [terms for facts in self.chain() for member, terms in facts.among if member in members]
        return min(choices, key=_doubt) if choices else None


def only(terms: tuple[RoutingTerm, ...] | None) -> KeyTerm | None:
    """Return the value that is the only one possible, if that is what the terms say."""
    if terms is None or len(terms) != 1 or isinstance(terms[0], Elements):
        return None
    return terms[0]


def _doubt(terms: tuple[RoutingTerm, ...]) -> tuple[bool, int]:
    return any(isinstance(term, Elements) for term in terms), len(terms)


class Reader:
    """Reads operands and comparisons. ``parameter_oids``: declared types, 0 for open ones.

    ``equality_hidden``: the search path shows a user's ``=`` beside pg_catalog's, so an unqualified one counts for
    nothing.
    ``types_hidden``: an unqualified type name need not be pg_catalog's.
    """

    def __init__(self, parameter_oids: Sequence[int], *, equality_hidden: bool, types_hidden: bool = False) -> None:
        self.parameter_oids = parameter_oids
        self.plain_equality = not equality_hidden
        self.types_hidden = types_hidden

    def is_equality(self, names: list[Node]) -> bool:
        """Whether an operator is ``=`` of pg_catalog for certain."""
        written = strings(names)
        return written == ("pg_catalog", "=") or (written == ("=",) and self.plain_equality)

    def term(self, node: Node, key_family: str) -> KeyTerm | None:
        """Read an operand as a value of a family; None when it is no closed value that Python may read."""
        if "TypeCast" in node:
            return self._cast(node["TypeCast"], key_family)
        if "ParamRef" in node:
            return self._parameter(node["ParamRef"].get("number", 0), key_family)
        literal = constant(node)
        return None if literal is None else _literal(literal, key_family)

    def terms(self, node: Node, key_family: str) -> tuple[RoutingTerm, ...] | None:
        """Read the right side of ANY: ARRAY[...], a parameter, a cast of these, or a literal of plain elements."""
        kind, body = next(iter(node.items()))
        if kind == "TypeCast":
            type_name, dimensions = self._type_of(body)
            if dimensions != 1 or not tells(family(type_name), key_family):
                return None
            kind, body = next(iter(body["arg"].items()))
        if kind == "ParamRef":
            number = body.get("number", 0)
            return (Elements(number),) if self._has_type(number, key_family, ARRAY_TYPE_OIDS) else None
        if kind == "A_ArrayExpr":
            return self.list_terms(body.get("elements", []), key_family)
        literal = constant({kind: body})
        return _array_literal(literal[1], key_family) if literal is not None and literal[0] == "string" else None

    def list_terms(self, nodes: Iterable[Node], key_family: str) -> tuple[KeyTerm, ...] | None:
        """Read a list of operands, all or nothing. NULL matches no row and is left out."""
        found = []
        for node in nodes:
            term = self.term(node, key_family)
            if term is None:
                return None
            if term != Constant(None):
                found.append(term)
        return tuple(dict.fromkeys(found))

    def _type_of(self, cast: Node) -> tuple[str, int]:
        hidden = self.types_hidden and len(cast.get("typeName", {}).get("names", ())) == 1
        return ("", 0) if hidden else type_of_cast(cast)

    def _parameter(self, number: int, key_family: str) -> KeyTerm | None:
        return Parameter(number) if self._has_type(number, key_family, KEY_TYPE_OIDS) else None

    def _has_type(self, number: int, key_family: str, types: Mapping[int, str]) -> bool:
        """Whether a parameter was declared as one of the types that tell of a family, or not declared at all."""
        if number < 1:
            return False  # $0 parses, and Postgres knows none
        oid = self.parameter_oids[number - 1] if number <= len(self.parameter_oids) else 0
        return oid in _UNKNOWN_OIDS or tells(family(types.get(oid, "")), key_family)

    def _cast(self, cast: Node, key_family: str) -> KeyTerm | None:
        type_name, dimensions = self._type_of(cast)
        if dimensions or not tells(family(type_name), key_family):
            return None
        inner = cast["arg"]
        literal = constant(inner)
        if literal is not None:
            if literal[0] == "string":
                return _canonical(type_name, literal[1])
            term = _literal(literal, key_family)
            if isinstance(term, Constant) and isinstance(term.value, int):
                return _canonical(type_name, str(term.value))
            return term
        return self._parameter(inner["ParamRef"].get("number", 0), key_family) if "ParamRef" in inner else None


def type_of_cast(cast: Node) -> tuple[str, int]:
    """Return the name in pg_catalog of a cast's type and its array dimensions; ("", 0) for types that may be others.

    Type names with a modifier, ``SETOF`` or ``%TYPE`` are not read. An unqualified name is taken for pg_catalog's
    only where the grammar itself says so, or where pg_catalog is searched first, which it is unless a search path
    puts it elsewhere.
    """
    type_name = cast.get("typeName", {})
    names = strings(type_name.get("names"))
    if type_name.get("typmods") or type_name.get("setof") or type_name.get("pct_type"):
        return "", 0
    if len(names) == _MANY and names[0] != "pg_catalog":
        return "", 0
    return (names[-1] if names else ""), len(type_name.get("arrayBounds", ()))


def _literal(literal: tuple[str, object], key_family: str) -> KeyTerm | None:
    kind, value = literal
    if kind == "null":
        return Constant(None)
    if kind == "string":
        return _canonical(key_family, str(value))
    if key_family == INTEGER:
        if kind == "integer" and isinstance(value, int):
            return Constant(value)
        if kind == "float" and str(value).lstrip("-").isdigit() and -_INT8 <= int(str(value)) < _INT8:
            return Constant(int(str(value)))  # too big for int4: Postgres reads int8 where it fits
    return None


def _canonical(type_name: str, text: str) -> KeyTerm | None:
    try:
        return Constant(parse_key_text(type_name, text))
    except UnsureKey:
        return None


def _array_literal(text: str, key_family: str) -> tuple[KeyTerm, ...] | None:
    """Read ``{1,2}``: plain elements only; quotes, nesting and blanks are left to Postgres."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    inner = text[1:-1]
    if any(character in inner for character in '"\\{} \t\n\r\v\f'):
        return None
    found: list[KeyTerm] = []
    for part in inner.split(",") if inner else []:
        if part.lower() == "null":
            continue
        term = _canonical(key_family, part) if part else None
        if term is None:
            return None
        found.append(term)
    return tuple(dict.fromkeys(found))


def value_term(reader: Reader, node: Node, key_type: str, type_modifier: int = -1) -> KeyTerm | None:
    """Read the key in VALUES: what is stored, after an assignment to the key's type. None when Postgres must decide."""
    key_family = family(key_type)
    if key_family is None:
        return None
    term = reader.term(node, key_family)
    if isinstance(term, Constant) and term.value is not None and key_family == INTEGER:
        return _canonical(key_type, str(term.value))
    if isinstance(term, Constant):
        try:
            return Constant(stored_key(key_type, term.value, type_modifier))
        except UnsureKey:
            return None
    return assigned(term, key_type, type_modifier)


def assigned(term: KeyTerm | None, key_type: str, type_modifier: int) -> KeyTerm | None:
    """Return a term as it is when it has been assigned to a key: a varchar cuts blanks off that a parameter may have.

    Of a char(n) they say nothing of where it is, and all other types store what is sent.
    """
    if isinstance(term, Parameter) and key_type == "varchar":
        return Parameter(term.number, type_modifier)
    return term
