"""Read a :class:`router.catalog.Catalog` from the home shard.

Decides how what Postgres says becomes facts: one statement, hence one snapshot, whatever is going on beside it. What
the facts mean is the router's. Inside a client's transaction the same text runs on the client's own link, so that what
the transaction has done to the catalog is seen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from proxy.shards.catalog_known import Document, Known, Row, without_versions
from proxy.shards.catalog_sql import HAS_VERSION, READ_BUILTINS, READ_CATALOG, READ_CATALOG_WHOLE, READ_VERSION
from proxy.shards.errors import ShardError
from router.assigned import surely_assigned
from router.builtins import Builtin
from router.catalog import Catalog
from router.cluster import TableName
from router.functions import (
    Body,
    Directory,
    Names,
    custom_settings_in,
    names_of_definition,
    names_of_expression,
    names_of_statements,
    uses_of,
)
from router.own_schema import SLOT_CONSTRAINT
from router.relation import (
    NOTHING,
    Cast,
    Column,
    ForeignKey,
    Function,
    FunctionName,
    Index,
    IndexColumn,
    Operator,
    Relation,
    RelationKind,
    Rule,
    Trigger,
    UserType,
    Uses,
)
from router.rights import SchemaRights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from proxy.shards.control import ControlConnection
    from proxy.shards.receivers import Answer
    from router.cluster import Database


_ATTEMPTS: Final = 3
_SOURCE: Final = 10  # where a function's text is in its row
# 55P03: somebody has locked what was about to be printed; the next reading sees the lock and prints around it.
_RACES: Final = frozenset({"XX000", "42P01", "42704", "42883", "55000", "55P03"})
_IN_TRANSACTION: Final = ord("T")
_FOR_READING: Final = "SET LOCAL search_path = pg_catalog; SET LOCAL client_encoding = 'UTF8'"
_TRIGGER_EVENTS: Final = ((4, "insert"), (8, "delete"), (16, "update"), (32, "truncate"))
_TRIGGER_ROW, _TRIGGER_BEFORE, _TRIGGER_INSTEAD = 1, 2, 64
_RULE_EVENTS: Final = {"1": "select", "2": "update", "3": "insert", "4": "delete"}
_NEXTVAL: Final = FunctionName("pg_catalog", "nextval")

_builtins: dict[int, tuple[dict[str, Builtin], frozenset[TableName]]] = {}
"""Names in pg_catalog, by server version: the same for every database of that version."""


class Control(Protocol):
    """What this file needs of :class:`proxy.shards.control.ControlLinks`."""

    def connection(self, shard: int) -> AbstractAsyncContextManager[ControlConnection]:
        """Lend a connection."""
        ...


class Link(Protocol):
    """What this file needs of :class:`proxy.shards.link.ShardLink`."""

    status: int

    async def run(self, sql: str) -> Answer:
        """Run a simple query."""
        ...


async def load_catalog(control: Control, database: Database, known: Known | None = None) -> Catalog:
    """Read the committed catalog of a database. Raises ShardError.

    Printing definitions of objects that vanish meanwhile is an error in Postgres; then it is read again.
    ``known``: what was read last, for what is locked now; it learns what is read.
    """
    async with control.connection(database.home) as connection:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await _load(connection, database, known or Known())
            except ShardError as error:
                await connection.execute("ROLLBACK")
                if attempt == _ATTEMPTS or error.fields.sqlstate not in _RACES:
                    raise
    raise AssertionError


async def _load(connection: ControlConnection, database: Database, known: Known) -> Catalog:
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog")
    version = await connection.fetchval(READ_VERSION) if await connection.fetchval(HAS_VERSION) else 0
    document = json.loads(await connection.fetchval(READ_CATALOG))
    if not known.complete(document):
        document = json.loads(await connection.fetchval(READ_CATALOG_WHOLE))
    known.keep(document)
    server = document["server"][0]
    if server not in _builtins:
        _builtins[server] = _read_builtins(json.loads(await connection.fetchval(READ_BUILTINS)))
    await connection.execute("COMMIT")
    return build_catalog(document, database, version)


async def load_catalog_inside(link: Link, database: Database, known: Known | None = None) -> Catalog:
    """Read the catalog as the open transaction of ``link`` (on the home shard) sees it. Raises ShardError.

    Leaves no trace in the transaction: what is set for the reading is rolled back to a savepoint.
    """
    document = json.loads(await ask_inside(link, READ_CATALOG))
    if not (known or Known()).complete(document):
        document = json.loads(await ask_inside(link, READ_CATALOG_WHOLE))
    server = document["server"][0]
    if server not in _builtins:
        _builtins[server] = _read_builtins(json.loads(await ask_inside(link, READ_BUILTINS)))
    return build_catalog(document, database, 0)


async def ask_inside(link: Link, query: str) -> str:
    """Return what one statement gives that asks for one text, leaving no trace in the transaction of ``link``."""
    if link.status == _IN_TRANSACTION:
        before, after = (
            "SAVEPOINT pgchorus_catalog",
            "ROLLBACK TO SAVEPOINT pgchorus_catalog; RELEASE SAVEPOINT pgchorus_catalog",
        )
    else:
        before, after = "BEGIN READ ONLY", "COMMIT"
    answer = await link.run(f"{before}; {_FOR_READING}; {query}; {after}")
    value = answer.rows[0][0]
    return "{}" if value is None else value.decode()


def _read_builtins(document: Document) -> tuple[dict[str, Builtin], frozenset[TableName]]:
    functions = {
        name: Builtin(volatile, kinds, returns_set) for name, volatile, kinds, returns_set in document["functions"]
    }
    return functions, frozenset(TableName(schema, name) for schema, name in document["relations"])


def build_catalog(document: Document, database: Database, version: int) -> Catalog:
    """Make a catalog of what READ_CATALOG returned; its server's built-ins must have been read."""
    builder = _Builder(without_versions(document))
    server, _ = document["server"]
    functions, relations = _builtins[server]
    return Catalog(
        database,
        relations=builder.relations(),
        functions=tuple(builder.functions),
        operators=tuple(builder.operators()),
        casts=tuple(builder.casts()),
        types=tuple(builder.types),
        schemas=frozenset(document["schemas"] or ()),
        builtin_functions=functions,
        system_relations=relations,
        version=version,
        server_version=server,
        custom_settings=builder.custom_settings(),
        rights=_rights(document) if len(database.shards) > 1 else None,
    )


def _rights(document: Document) -> SchemaRights:
    inherits: defaultdict[str, set[str]] = defaultdict(set)
    for member, group in document["members"] or ():
        inherits[member].add(group)
    for owner in document["database_owner"] or ():
        inherits[owner].add("pg_database_owner")
    usage = {schema: frozenset(role for role in roles or () if role is not None) for schema, roles in document["usage"]}
    return SchemaRights(dict(document["roles"]), {role: frozenset(groups) for role, groups in inherits.items()}, usage)


class _Builder:
    """Turns lists of rows into facts: names first, then types and functions, then relations."""

    def __init__(self, document: Document) -> None:
        self._rows: Document = document
        self._tables = {row[0]: TableName(row[1], row[2]) for row in self._list("relations")}
        self._function_names = {row[0]: FunctionName(row[1], row[2]) for row in self._list("functions")}
        self._directory = self._names_only()
        self._expressions: dict[str, Uses] = {}
        own = [self._type(row) for row in self._list("types")]
        self._type_uses = self._whole_types({kind.oid: kind.uses for kind in own if kind.uses != NOTHING})
        composites = [UserType(schema, name, oid, "c") for oid, schema, name in self._list("composites")]
        composites += self._rows_with_uses()
        whole = [replace(kind, uses=self._type_uses.get(kind.oid, NOTHING)) for kind in (*own, *composites)]
        self.types = [kind for kind in whole if kind.kind != "c" or kind.uses != NOTHING]
        used: defaultdict[str, list[tuple[str, Uses]]] = defaultdict(list)
        for kind in self.types:
            if kind.uses != NOTHING:
                used[kind.name].append((kind.schema, kind.uses))
        self._directory = Directory(
            self._directory.relations,
            self._directory.functions,
            self._directory.row_functions,
            self._directory.operators,
            {name: tuple(meanings) for name, meanings in used.items()},
        )
        self._expressions = {}  # those of types were read before types had uses
        self._signatures: dict[int, list[int]] = {row[0]: row[1] for row in self._list("signatures")}
        self._aggregates = dict(self._list("aggregates"))
        self.functions = [self._function(row) for row in self._list("functions")]

    def _list(self, name: str) -> list[Row]:
        return self._rows[name] or []

    def _grouped(self, name: str) -> Mapping[int, list[Row]]:
        grouped: defaultdict[int, list[Row]] = defaultdict(list)
        for row in self._list(name):
            grouped[row[0]].append(row[1:])
        return grouped

    def _names_only(self) -> Directory:
        relations: defaultdict[str, tuple[TableName, ...]] = defaultdict(tuple)
        for table in self._tables.values():
            relations[table.name] += (table,)
        functions: dict[str, tuple[FunctionName, ...]] = {}
        row_functions = set()
        for row in self._list("functions"):
            name = self._function_names[row[0]]
            known = functions.get(name.name, ())
            if name not in known:
                functions[name.name] = (*known, name)
            if row[15]:
                row_functions.add(name.name)
        operators: defaultdict[str, tuple[tuple[str, FunctionName], ...]] = defaultdict(tuple)
        for schema, symbol, _, function, _ in self._list("operators"):
            if function in self._function_names:
                operators[symbol] += ((schema, self._function_names[function]),)
        return Directory(dict(relations), functions, frozenset(row_functions), dict(operators))

    def _expression(self, text: str | None) -> Uses:
        if text is None:
            return NOTHING
        known = self._expressions.get(text)
        if known is None:
            known = self._expressions[text] = self._uses(names_of_expression(text))
        return known

    def _uses(self, names: Names) -> Uses:
        uses = self._directory.resolve(names)
        plain = not (uses.reads or uses.writes or uses.functions or uses.unknown or uses.rows)
        return NOTHING if plain else uses

    # --- types, functions, operators ---------------------------------------------------------------------------------

    def _type(self, row: Row) -> UserType:
        oid, schema, name, kind, base, default, checks = row
        uses = self._expression(default) if kind == "d" else NOTHING
        for check in checks or ():
            uses |= self._expression(check)
        return UserType(schema, name, oid, kind, base, uses)

    def _whole_types(self, own: Mapping[int, Uses]) -> dict[int, Uses]:
        """Return what each type uses, by OID, with all that it is made of."""
        parts = self._grouped("type_parts")
        rows = {row_type: self._tables[relation] for row_type, relation in self._list("row_types")}
        found: dict[int, Uses] = {}

        def follow(oid: int) -> Uses:
            known = found.get(oid)
            if known is None:
                found[oid] = NOTHING  # what comes back to itself adds nothing
                known = own.get(oid, NOTHING)
                if oid in rows:
                    known |= Uses(rows=frozenset({rows[oid]}))
                for (part,) in parts.get(oid, ()):
                    known |= follow(part)
                found[oid] = known
            return known

        for oid in (*own, *rows, *parts):
            follow(oid)
        return found

    def _rows_with_uses(self) -> Iterable[UserType]:
        """Yield the row types of relations that hold more than plain columns."""
        for oid, relation in self._list("row_types"):
            name = self._tables[relation]
            if self._type_uses.get(oid, NOTHING) != Uses(rows=frozenset({name})):
                yield UserType(name.schema, name.name, oid, "c")

    def _function(self, row: Row) -> Function:
        (oid, _, _, kind, volatile, language, arguments, defaults, variadic, returns_set) = row[:10]
        (source, definition, atomic, default_texts, extension, row_argument, _) = row[10:]
        if kind == "a":
            parts = [self._function_names[p] for p in self._aggregates.get(oid, ()) if p in self._function_names]
            uses, names = Uses(functions=frozenset(parts)), Names()
        else:
            body = Body(language, source, definition or "", default_texts or "", volatile, atomic, extension or "")
            uses, names = uses_of(body, self._directory)
        for type_oid in self._signatures.get(oid, ()):
            uses |= self._type_uses.get(type_oid, NOTHING)
        return Function(
            self._function_names[oid],
            uses,
            volatile,
            kind,
            language,
            (arguments - defaults - (1 if variadic else 0), None if variadic else arguments),
            returns_set,
            names.sets,
            row_argument,
            names.sets_custom,
            names.keeps,
            surely_assigned(definition) if definition and "RETURNS trigger" in definition else frozenset(),
            names.sets_unnamed,
        )

    def custom_settings(self) -> frozenset[str]:
        """Settings with a dot in their name that bodies of functions may set, as far as their text says."""
        texts = (row[_SOURCE] or "" for row in self._list("functions"))
        return frozenset(name.lower() for text in texts for name in custom_settings_in(text))

    def operators(self) -> Iterable[Operator]:
        """User-defined operators."""
        for schema, symbol, binary, function, operands in self._list("operators"):
            yield Operator(schema, symbol, binary, self._function_names.get(function), tuple(operands or ()))

    def casts(self) -> Iterable[Cast]:
        """User-defined casts."""
        for source, target, context, function in self._list("casts"):
            yield Cast(source, target, context, self._function_names.get(function))

    # --- relations ---------------------------------------------------------------------------------------------------

    def relations(self) -> tuple[Relation, ...]:
        """All relations of user schemas."""
        columns, indexes = self._columns(), self._grouped("indexes")
        keys, checks, rules = self._grouped("foreign_keys"), self._grouped("checks"), self._grouped("rules")
        triggers, policies = self._grouped("triggers"), self._grouped("policies")
        index_names = self._grouped("index_names")
        parents, children = self._family()
        referenced: defaultdict[TableName, list[tuple[TableName, ForeignKey]]] = defaultdict(list)
        foreign: dict[int, tuple[ForeignKey, ...]] = {}
        for oid, rows in keys.items():
            foreign[oid] = tuple(
                ForeignKey(row[0], tuple(row[2]), self._tables[row[1]], tuple(row[3]), *row[4:]) for row in rows
            )
            for key in foreign[oid]:
                referenced[key.table].append((self._tables[oid], key))
        owners = {row[0]: self._tables.get(row[1]) for row in self._list("sequences")}
        found = []
        for oid, _, _, kind, row_security, partition, query, part_expression in self._list("relations"):
            name = self._tables[oid]
            own_columns = columns.get(oid, ())
            unique = tuple(self._indexes(indexes.get(oid, ())))
            own_checks = tuple((row[0], row[1]) for row in checks.get(oid, ()))
            policy_uses = self._all_expressions(text for row in policies.get(oid, ()) for text in row)
            read_uses = policy_uses if row_security else NOTHING
            for column in own_columns:
                if column.generated == "v":
                    read_uses |= column.uses
            if query is not None:
                read_uses |= self._uses(names_of_statements(query))
            write_uses = self._all_expressions(
                [part_expression, *(text for name, text in own_checks if name != SLOT_CONSTRAINT)]
            )
            write_uses |= self._all_expressions(text for row in indexes.get(oid, ()) for text in row[7:9])
            for column in own_columns:
                write_uses |= replace(self._type_uses.get(column.type_oid, NOTHING), rows=frozenset())
            found.append(
                Relation(
                    name,
                    RelationKind(kind),
                    own_columns,
                    oid,
                    primary_key=next((tuple(c.column or "" for c in i.columns) for i in unique if i.primary), ()),
                    unique=unique,
                    foreign_keys=foreign.get(oid, ()),
                    referenced_by=tuple(referenced.get(name, ())),
                    triggers=tuple(self._triggers(triggers.get(oid, ()))),
                    rules=tuple(self._rules(rules.get(oid, ()))),
                    row_security=row_security,
                    parents=tuple(parents.get(oid, ())),
                    children=tuple(children.get(oid, ())),
                    partition=partition,
                    owned_by=owners.get(oid),
                    query=query or "",
                    read_uses=read_uses,
                    write_uses=write_uses,
                    checks=own_checks,
                    indexes=frozenset(row[0] for row in index_names.get(oid, ())),
                )
            )
        return tuple(found)

    def _all_expressions(self, texts: Iterable[str | None]) -> Uses:
        uses = NOTHING
        for text in texts:
            uses |= self._expression(text)
        return uses

    def _family(self) -> tuple[Mapping[int, list[TableName]], Mapping[int, list[TableName]]]:
        parents: defaultdict[int, list[TableName]] = defaultdict(list)
        children: defaultdict[int, list[TableName]] = defaultdict(list)
        for child, parent in self._list("inherits"):
            if child in self._tables and parent in self._tables:
                parents[child].append(self._tables[parent])
                children[parent].append(self._tables[child])
        return parents, children

    def _columns(self) -> dict[int, tuple[Column, ...]]:
        feeding = {(row[1], row[2]): self._tables[row[0]] for row in self._list("sequences")}
        found: defaultdict[int, list[Column]] = defaultdict(list)
        for row in self._list("columns"):
            (relation, name, number, type_oid, type_name, type_schema, base, modifier, not_null) = row[:9]
            (identity, generated, default, collation, as_c, deterministic, definition, bare) = row[9:]
            uses = self._expression(default)
            sequence = feeding.get((relation, number)) if identity or _NEXTVAL in uses.functions else None
            if identity and sequence is not None:
                uses |= Uses(reads=frozenset({sequence}), functions=frozenset({_NEXTVAL}))
            found[relation].append(
                Column(
                    name,
                    type_name,
                    number,
                    type_oid,
                    type_schema,
                    base,
                    modifier,
                    not_null,
                    default or "",
                    identity,
                    generated,
                    collation,
                    as_c,
                    deterministic,
                    uses,
                    sequence,
                    definition,
                    bare,
                )
            )
        return {relation: tuple(columns) for relation, columns in found.items()}

    def _indexes(self, rows: Iterable[Row]) -> Iterable[Index]:
        for name, unique, primary, exclusion, partial, deferrable, replica, _, _, columns in rows:
            if unique or exclusion:
                keys = tuple(IndexColumn(*column) for column in columns or ())
                yield Index(name, keys, primary, exclusion, partial, deferrable, replica)

    def _triggers(self, rows: Iterable[Row]) -> Iterable[Trigger]:
        for name, bits, function, definition, deferrable in rows:
            events = frozenset(event for bit, event in _TRIGGER_EVENTS if bits & bit)
            timing = "instead" if bits & _TRIGGER_INSTEAD else "before" if bits & _TRIGGER_BEFORE else "after"
            called = self._function_names.get(function)
            uses = NOTHING if called is None else Uses(functions=frozenset({called}))
            if definition is not None:
                uses |= self._uses(names_of_definition(definition))
            yield Trigger(name, events, bool(bits & _TRIGGER_ROW), timing, uses, deferrable)

    def _rules(self, rows: Iterable[Row]) -> Iterable[Rule]:
        for name, event, instead, definition in rows:
            yield Rule(name, _RULE_EVENTS[event], instead, self._uses(names_of_definition(definition)))
