"""What stored SQL names: bodies of functions, views, defaults, checks, policies, rules.

Decides, from text, which relations are read and written, which functions, operators and types are used, and when nobody
can tell (dynamic SQL, other languages, DDL). Names in string bodies are looked up when the function runs, under a
search path that may be anything, so an unqualified name here means every object of that name. What is reached from
there is followed by :mod:`router.closure`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final

from pglast.parser import ParseError, parse_plpgsql_json, parse_sql_json, scan

from router import builtins, clock_words
from router.declared_types import declared_types
from router.effect import NO_EFFECT
from router.named_types import ANY_TYPE, of_call
from router.relation import NOTHING, FunctionName, Uses
from router.server_values import counts_objects, of_one_server
from router.tree import Node, constant, name_parts, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from router.cluster import TableName

Parts = tuple[str, ...]

CACHED_TEXTS: Final = 8192
#: Types of pg_catalog, which is searched first, that a table may be called like.
_BUILT_IN: Final = frozenset({"bit", "box", "circle", "date", "interval", "json", "jsonb", "line", "money", "name",
                              "numeric", "oid", "path", "point", "polygon", "record", "text", "time", "timestamp",
                              "uuid", "xml"})  # fmt: skip

_PLAIN_STATEMENTS: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CallStmt",
                                      "ReturnStmt", "VariableShowStmt"})  # fmt: skip
_CHANGING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_TRIVIAL: Final = re.compile(r"\w*|'[^'\\]*'")
_OF_SERVERS: Final = frozenset({"FuncCall", "TypeCast", "A_Expr", "CoalesceExpr", "MinMaxExpr"})
_DYNAMIC: Final = frozenset({"PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors"})
_TRANSACTION: Final = frozenset({"PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"})
#: A relation's number as an OID: triggers that write who they are.
_TRIGGERS_OWN: Final = re.compile(r"\btg_relid\b(?!\s*::\s*(?:pg_catalog\.)?regclass\b)", re.IGNORECASE)
_QUOTED_DOTTED: Final = re.compile(r"'([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)'")
_SET_DOTTED: Final = re.compile(r"\bset\s+(?:session\s+)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)", re.IGNORECASE)
#: The word in dynamic SQL, or in another language.
SETVAL: Final = re.compile(r"(?<![a-z0-9])setval(?![a-z0-9_])", re.IGNORECASE)
_PARSE_STATEMENT, _PARSE_EXPRESSION, _PARSE_ASSIGNMENT = 0, 2, 3


@dataclass(frozen=True, slots=True)
class Names:
    """What one text names, unresolved: parts as written, folded by the parser. ``unknown`` as in :class:`Uses`."""

    reads: frozenset[Parts] = frozenset()
    writes: frozenset[Parts] = frozenset()
    functions: frozenset[Parts] = frozenset()
    operators: frozenset[Parts] = frozenset()
    types: frozenset[Parts] = frozenset()
    fields: frozenset[str] = frozenset()  # last names of column references: t.f may be a call f(t)
    unknown: str = ""
    sets: bool = False
    sets_custom: bool = False  # a setting with a dot in its name, or one whose name is computed
    escapes: bool = False  # it ends transactions
    keeps: bool = False  # it may leave something in the server's process
    sets_unnamed: bool = False  # a setting whose name is computed


@dataclass(frozen=True, slots=True)
class Directory:
    """The names of one database, to resolve :class:`Names` with. ``functions`` has those outside pg_catalog.

    ``row_functions``: functions that can be called as ``row.f``. ``operators``: user-defined ones by symbol.
    ``types``: what using a user-defined type runs (the checks of a domain in it), only where that is something.
    """

    relations: Mapping[str, tuple[TableName, ...]] = field(default_factory=dict)
    functions: Mapping[str, tuple[FunctionName, ...]] = field(default_factory=dict)
    row_functions: frozenset[str] = frozenset()
    operators: Mapping[str, tuple[tuple[str, FunctionName], ...]] = field(default_factory=dict)
    types: Mapping[str, tuple[tuple[str, Uses], ...]] = field(default_factory=dict)

    def resolve(self, names: Names) -> Uses:
        """Return what the names may mean."""
        functions = set(self._functions(names.functions))
        for name in names.fields & self.row_functions:
            functions.update(self.functions.get(name, ()))
        for operator in names.operators:
            for schema, function in self.operators.get(operator[-1], ()):
                if len(operator) == 1 or operator[-2] == schema:
                    functions.add(function)
        uses = Uses(
            frozenset(self._relations(names.reads)),
            frozenset(self._relations(names.writes)),
            frozenset(functions),
            names.unknown,
            names.escapes,
        )
        for parts in names.types:
            uses |= self.type_uses(parts)
        return uses

    def type_uses(self, parts: Parts) -> Uses:
        """Return what a name of a type may mean; ``ANY_TYPE`` means all there are."""
        if parts == ANY_TYPE:
            every = reduce(or_, (uses for meanings in self.types.values() for _, uses in meanings), NOTHING)
            return replace(every, rows=frozenset())
        name = parts[-1]
        if name not in self.types and name.startswith("_"):
            name = name.lstrip("_")  # an array
        rows = (table for table in self.relations.get(name, ()) if len(parts) == 1 or table.schema == parts[-2])
        uses = Uses(rows=frozenset(rows)) if (name,) != parts or name not in _BUILT_IN else NOTHING
        for schema, of_type in self.types.get(name, ()):
            if len(parts) == 1 or schema == parts[-2]:
                uses |= of_type
        return uses

    def _relations(self, all_parts: Iterable[Parts]) -> Iterator[TableName]:
        for parts in all_parts:
            for table in self.relations.get(parts[-1], ()):
                if len(parts) == 1 or table.schema == parts[-2]:
                    yield table

    def _functions(self, all_parts: Iterable[Parts]) -> Iterator[FunctionName]:
        for parts in all_parts:
            for function in self.functions.get(parts[-1], ()):
                if len(parts) == 1 or function.schema == parts[-2]:
                    yield function
            if len(parts) == 1 or parts[-2] == "pg_catalog":
                yield FunctionName("pg_catalog", parts[-1])


def custom_settings_in(text: str) -> Iterator[str]:
    """Return the settings with a dot in their name that a function's text may set: more than it does, sooner than less.

    Names that are put together when it runs are not found.
    """
    if "set_config" in text.lower():
        yield from _QUOTED_DOTTED.findall(text)
    yield from _SET_DOTTED.findall(text)


# --- texts -------------------------------------------------------------------------------------------------------


@lru_cache(CACHED_TEXTS)
def names_of_statements(text: str) -> Names:
    """Return what a text of SQL statements names (a view's query, the string body of an SQL function)."""
    try:
        statements = json.loads(parse_sql_json(text)).get("stmts", [])
    except (ParseError, UnicodeEncodeError, RecursionError):
        return Names(unknown="cannot be read by our parser")
    collector = _Collector()
    for statement in statements:
        collector.statement(statement.get("stmt", {}))
    return collector.names()


def names_of_expression(text: str) -> Names:
    """Return what an expression names (or a list of them, separated by commas)."""
    if _TRIVIAL.fullmatch(text):
        return _NO_NAMES
    return names_of_statements(f"SELECT {text}")


@lru_cache(CACHED_TEXTS)
def names_of_definition(text: str) -> Names:
    """Return what a CREATE FUNCTION (with BEGIN ATOMIC or RETURN), CREATE RULE or CREATE TRIGGER runs when it is used.

    Left out: the relation that a rule or trigger is on, and the function that a trigger calls.
    """
    try:
        (statement,) = json.loads(parse_sql_json(text)).get("stmts", [])
    except (ParseError, UnicodeEncodeError, RecursionError, ValueError):
        return Names(unknown="cannot be read by our parser")
    collector = _Collector()
    ((kind, body),) = statement["stmt"].items()
    if kind == "CreateFunctionStmt":
        collector.tree(body.get("parameters"))
        collector.tree(body.get("sql_body"))
    elif kind == "RuleStmt":
        collector.tree(body.get("whereClause"))
        for action in body.get("actions", ()):
            collector.statement(action)
    elif kind == "CreateTrigStmt":
        collector.tree(body.get("whenClause"))
    else:
        collector.unknown = f"has a definition that is a {kind}"
    return collector.names()


@lru_cache(CACHED_TEXTS)
def names_of_plpgsql(definition: str) -> Names:
    """Return what a PL/pgSQL function names; ``definition`` is its whole CREATE FUNCTION."""
    try:
        functions = json.loads(parse_plpgsql_json(definition))
    except (ParseError, UnicodeEncodeError, RecursionError):
        return Names(unknown="has a body that our parser cannot read")
    collector = _Collector()
    for kind, body in walk(functions):
        if kind in _DYNAMIC or (kind.startswith("PLpgSQL_stmt") and "dynquery" in body):
            collector.unknown = "runs dynamic SQL"
        elif kind in _TRANSACTION:
            collector.unknown = collector.unknown or "ends transactions"
            collector.escapes = True
        elif kind == "PLpgSQL_expr":
            collector.plpgsql(body.get("query", ""), body.get("parseMode", _PARSE_STATEMENT))
        elif counts_objects(kind, body):
            collector.functions.add(("pg_catalog", builtins.SERVER_VALUE))
    if _TRIGGERS_OWN.search(definition):
        collector.functions.add(("pg_catalog", builtins.SERVER_VALUE))
    collector.parse_defaults(definition)
    return collector.names()


class _Collector:
    """Gathers names from parse trees."""

    def __init__(self) -> None:
        self.reads: set[Parts] = set()
        self.writes: set[Parts] = set()
        self.functions: set[Parts] = set()
        self.operators: set[Parts] = set()
        self.types: set[Parts] = set()
        self.fields: set[str] = set()
        self.unknown = ""
        self.sets = False
        self.sets_custom = False
        self.sets_unnamed = False
        self.escapes = False

    def names(self) -> Names:
        """Return what was gathered."""
        return Names(
            frozenset(self.reads),
            frozenset(self.writes),
            frozenset(self.functions),
            frozenset(self.operators),
            frozenset(self.types),
            frozenset(self.fields),
            self.unknown,
            self.sets,
            self.sets_custom,
            self.escapes,
            sets_unnamed=self.sets_unnamed,
        )

    def add(self, names: Names) -> None:
        """Take over what another text names."""
        self.reads |= names.reads
        self.writes |= names.writes
        self.functions |= names.functions
        self.operators |= names.operators
        self.types |= names.types
        self.fields |= names.fields
        self.unknown = self.unknown or names.unknown
        self.sets = self.sets or names.sets
        self.sets_custom = self.sets_custom or names.sets_custom
        self.sets_unnamed = self.sets_unnamed or names.sets_unnamed
        self.escapes = self.escapes or names.escapes

    def statement(self, statement: Node) -> None:
        """Gather from one whole statement."""
        for kind, body in statement.items():
            if kind == "VariableSetStmt":
                self.sets = True
                self.sets_custom = self.sets_custom or "." in body.get("name", "")
            elif kind == "NotifyStmt":
                self.functions.add(("pg_catalog", "pg_notify"))
            elif kind in {"LockStmt", "TruncateStmt"}:
                self.writes.update(name_parts(item["RangeVar"]) for item in body.get("relations", ()))
            elif kind not in _PLAIN_STATEMENTS:
                self.unknown = self.unknown or f"runs a {kind.removesuffix('Stmt')} statement"
            self.tree(statement)

    def tree(self, tree: Any) -> None:
        """Gather from everything below a node."""
        for kind, body in walk(tree):
            if kind == "RangeVar":
                self.reads.add(name_parts(body))
            elif kind in _CHANGING:
                self.writes.add(name_parts(body.get("relation", {})))
            elif kind == "SelectStmt":
                self._select(body)
            elif kind == "TypeName":
                self.types.add(strings(body.get("names")))
            else:
                self._expression(kind, body)

    def _expression(self, kind: str, body: Node) -> None:
        if kind in _OF_SERVERS and of_one_server(kind, body) is not NO_EFFECT:
            self.functions.add(("pg_catalog", builtins.SERVER_VALUE))
        if kind == "FuncCall":
            self._call(body)
        elif kind == "ColumnRef":
            self.fields.add(strings(body.get("fields"))[-1])
        elif kind == "A_Indirection":
            self.fields.update(strings([item for item in body.get("indirection", ()) if "String" in item]))
        elif kind in {"A_Expr", "SubLink"}:
            self.operators.add(strings(body.get("name") or body.get("operName")) or ("=",))
        elif kind == "SortBy" and body.get("useOp"):
            self.operators.add(strings(body["useOp"]))
        elif kind == "SQLValueFunction" and clock_words.is_keyword(body):
            self.functions.add(("pg_catalog", "now"))

    def _select(self, body: Node) -> None:
        if "intoClause" in body:
            self.unknown = self.unknown or "creates a table"
        if "lockingClause" in body:
            self.writes.update(
                name_parts(ranged) for kind, ranged in walk(body.get("fromClause")) if kind == "RangeVar"
            )

    def _call(self, body: Node) -> None:
        name = strings(body.get("funcname"))
        self.functions.add(name)
        arguments = body.get("args", ())
        made = of_call(body)
        if made is not None:
            self.types.add(made)
        if name[-1] == "set_config":
            setting = constant(arguments[0]) if arguments else None
            self.sets_custom = self.sets_custom or setting is None or "." in str(setting[1])
            self.sets_unnamed = self.sets_unnamed or setting is None
        if arguments and name[-1] in builtins.SEQUENCES:
            sequence = _sequence(arguments[0])
            if sequence is not None:
                self.reads.add(sequence)

    def plpgsql(self, query: str, mode: int) -> None:
        """Gather from an expression of PL/pgSQL: a statement, an expression, or an assignment."""
        if mode == _PARSE_STATEMENT:
            self.add(names_of_statements(query))
        elif mode < _PARSE_ASSIGNMENT:
            self.add(names_of_expression(query))
        else:
            for side in _assignment(query):
                self.add(names_of_expression(side))

    def parse_defaults(self, definition: str) -> None:
        """Gather from the defaults of a function's parameters."""
        if "DEFAULT" in definition:
            self.add(names_of_definition(definition))


_NO_NAMES: Final = Names()


def _assignment(text: str) -> tuple[str, ...]:
    """Split ``target := value`` (or ``=``) at its operator; the target may hold subscripts with calls of their own."""
    try:
        tokens = scan(text)
    except ParseError:
        return (text,)
    depth = 0
    for token in tokens:
        if token.name == "ASCII_91":
            depth += 1
        elif token.name == "ASCII_93":
            depth -= 1
        elif depth == 0 and token.name in {"COLON_EQUALS", "ASCII_61"}:
            return text[: token.start], text[token.end + 1 :]
    return (text,)


def _sequence(argument: Node) -> Parts | None:
    """Return the sequence that a constant argument of nextval and kin names, None if it is no constant."""
    while "TypeCast" in argument:
        argument = argument["TypeCast"].get("arg", {})
    value = constant(argument)
    if value is None or value[0] != "string":
        return None
    return identifier(value[1])


@lru_cache(CACHED_TEXTS)
def identifier(text: str) -> Parts | None:
    """Return the parts of a name as in ``'a."B c"'::regclass``, folded as Postgres does; None if it is no name."""
    try:
        statements = json.loads(parse_sql_json(f"TABLE {text}")).get("stmts", [])
        (statement,) = statements
        target = statement["stmt"]["SelectStmt"]["fromClause"][0]["RangeVar"]
    except (ParseError, UnicodeEncodeError, LookupError, ValueError):
        return None
    return name_parts(target)


# --- functions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Body:
    """A function as pg_proc has it.

    ``text``: prosrc. ``definition``: pg_get_functiondef, for PL/pgSQL and for SQL-standard bodies (``atomic``).
    ``defaults``: the parameters' defaults as a list of expressions. ``extension``: the extension that owns it.
    """

    language: str
    text: str = ""
    definition: str = ""
    defaults: str = ""
    volatile: str = "v"
    atomic: bool = False
    extension: str = ""


def _names_of_c(body: Body) -> Names:
    remembering = builtins.REMEMBERING_SYMBOLS.get(body.text)
    if remembering is not None:
        return Names(unknown=f"sets what only one shard would know; {remembering}", escapes=True, keeps=True)
    closed = body.volatile == "i" or body.extension in builtins.CLOSED_EXTENSIONS
    keeps = body.volatile == "v" and body.extension not in builtins.FORGETFUL_EXTENSIONS
    return Names(unknown="" if closed else "is written in C", keeps=keeps)


def uses_of(body: Body, directory: Directory) -> tuple[Uses, Names]:
    """Return what a function's body uses, and what it names."""
    if body.language == "internal":
        return Uses(functions=frozenset({FunctionName("pg_catalog", body.text)})), _NO_NAMES
    if body.language == "c":
        names = _names_of_c(body)
    elif body.language == "plpgsql":
        names = names_of_plpgsql(body.definition)
    elif body.language == "sql":
        names = names_of_definition(body.definition) if body.atomic else names_of_statements(body.text)
    else:
        names = Names(unknown=f"is written in {body.language}")
    if names.unknown and SETVAL.search(body.text):
        names = replace(names, functions=names.functions | {("pg_catalog", builtins.SETS_SEQUENCE)})
    uses = directory.resolve(names)
    if body.language == "plpgsql":
        uses |= directory.resolve(Names(types=declared_types(body.text)))
    if body.defaults:
        uses |= directory.resolve(names_of_expression(body.defaults))
    if names.unknown and body.language != "c":
        names = replace(names, sets_custom=True)
    return uses or NOTHING, names
