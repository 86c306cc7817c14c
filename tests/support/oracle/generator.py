"""Schemas, rows and statements at random, from a seed.

Everything generated has one right answer as far as `oracle.compare` looks: no floats, no values that are equal and look
different, LIMIT only behind an ORDER BY over all columns, window functions that ties do not disturb, aggregates with an
order where one shows. What a statement does is left to chance; that it is valid SQL is seen to by types: columns are
of kind i (integers), t (text), n (numeric with two digits), d (date), b (bool).
"""

# ruff: noqa: E501 - patterns of SQL read best on one line, and each kind of value has its return

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from oracle.values import inserts

TYPES = {"i": ("int8", "int4"), "t": ("text", "varchar(8)"), "n": ("numeric(8,2)",), "d": ("date",), "b": ("bool",)}
KEY_TYPES = ("int8", "int4", "int2", "text", "varchar(8)")
TEXTS = ("a", "A", "b", "ab", "", "a ", "é", "x'y", "10", "zz")
SHARDED, REFERENCE, HOME = "sharded", "reference", "home"
_BIG_INTEGERS = (0, 1, 2, 3, 5, 8, -1, -7, 100)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns by name with their kinds, and where it lives."""

    name: str
    columns: dict[str, str]
    key: str
    place: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What a condition may name: (alias, table)."""

    tables: tuple[tuple[str, Table], ...]


@dataclass(slots=True)
class Generator:
    """One schema and as many statements as wanted."""

    seed: int
    tables: list[Table] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    chance: random.Random = field(init=False)
    _serial: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        for number in range(6):
            place = (SHARDED, SHARDED, SHARDED, SHARDED, REFERENCE, HOME)[number]
            self._make_table(number, place)

    # --- schema and rows ---------------------------------------------------------------------------------------

    def _make_table(self, number: int, place: str) -> None:
        # Two tables share a key type, so that they can be joined on the key.
        key_type = KEY_TYPES[self.seed % len(KEY_TYPES)] if number < 3 else self.pick(*KEY_TYPES)
        columns = {"k": "i" if key_type.startswith("int") else "t"}
        types = [f"k {key_type}"]
        for position in range(self.chance.randrange(3, 6)):
            kind = "itndb"[position] if position < 3 else self.pick(*"itndb")
            name = f"{kind}{position}"
            columns[name] = kind
            types.append(f"{name} {self.pick(*TYPES[kind])}")
        table = Table(f"g{number}", columns, "k", place)
        key = ""
        if place != SHARDED or self.odds(0.3):
            types.insert(0, "id int4")
            table = Table(table.name, {"id": "i", **columns}, "k", place)
            key = ", primary key (id)" if place != SHARDED else ", primary key (k, id)"
        self.tables.append(table)
        self.definitions.append(f"create table {table.name} ({', '.join(types)}{key})")
        rows = [
            [self._value(table, name, row, bool(key)) for name in table.columns]
            for row in range(self.pick(0, 12, 40, 70))
        ]
        self.definitions += inserts(table.name, rows)

    def _value(self, table: Table, name: str, row: int, has_key: bool) -> Any:  # noqa: FBT001 - of this file only
        kind = table.columns[name]
        if name == "id":
            return row
        if self.odds(0.12) and not (name == "k" and has_key and table.place == SHARDED):
            return None
        if kind == "i":
            return self.pick(*_BIG_INTEGERS, self.chance.randrange(30))
        if kind == "t":
            return self.pick(*TEXTS)
        if kind == "n":
            return f"{self.chance.randrange(-500, 5000) / 100:.2f}"
        return f"2024-01-{self.chance.randrange(1, 29):02d}" if kind == "d" else self.odds(0.5)

    def placements(self) -> dict[str, Any]:
        """Return the tables as the configuration wants them."""
        return {
            table.name: "reference" if table.place == REFERENCE else {"key": table.key}
            for table in self.tables
            if table.place != HOME
        }

    # --- chance ------------------------------------------------------------------------------------------------

    def pick(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    def odds(self, share: float) -> bool:
        return self.chance.random() < share

    def alias(self) -> str:
        self._serial += 1
        return f"x{self._serial}"

    # --- expressions -------------------------------------------------------------------------------------------

    def columns(self, scope: Scope, kind: str) -> list[str]:
        return [f"{alias}.{name}" for alias, table in scope.tables for name, k in table.columns.items() if k == kind]

    def constant(self, kind: str) -> str:
        if kind == "i":
            value = self.pick(*_BIG_INTEGERS)
            return self.pick(str(value), str(value), f"'{value}'", f"{value}::int4") if value >= 0 else f"({value})"
        if kind == "t":
            return "'" + self.pick(*TEXTS).replace("'", "''") + "'"
        if kind == "n":
            return f"{self.chance.randrange(0, 4000) / 100:.2f}"
        return f"date '2024-01-{self.chance.randrange(1, 29):02d}'" if kind == "d" else self.pick("true", "false")

    def expression(self, scope: Scope, kind: str) -> str:
        """Return a value of a kind."""
        known = self.columns(scope, kind)
        if not known or self.odds(0.08):
            return f"{self.constant(kind)}::{TYPES[kind][0]}"
        column = self.pick(*known)
        if self.odds(0.7):
            return str(column)
        if kind == "i":
            return str(self.pick(f"{column} + 1", f"{column} % 3", f"coalesce({column}, 0)", f"abs({column})"))
        if kind == "t":
            return str(
                self.pick(f"lower({column})", f"{column} || '!'", f"coalesce({column}, '?')", f"left({column}, 1)")
            )
        if kind == "n":
            return str(self.pick(f"{column} * 2", f"-{column}", f"coalesce({column}, 0.00)"))
        return str(self.pick(f"{column} + 1", column)) if kind == "d" else f"not {column}"

    def condition(self, scope: Scope, depth: int) -> str:
        """Return a condition."""
        roll = self.chance.randrange(14)
        if roll < 4:
            alias, table = self.pick(*scope.tables)
            kind = table.columns["k"]
            key = f"{alias}.k"
            one, two = self.constant(kind), self.constant(kind)
            return str(self.pick(f"{key} = {one}", f"{key} in ({one}, {two})", f"{one} = {key}", f"{key} = {one} or {key} = {two}",
                                 f"{key} is null", f"{key} between {one} and {two}", f"{key} <> {one}"))  # fmt: skip
        kind = self.pick("i", "t", "n", "d", "b")
        if roll < 8:
            sign = self.pick("=", "<", ">", "<=", "<>", "is distinct from")
            return f"{self.expression(scope, kind)} {sign} {self.expression(scope, kind)}"
        if roll == 8:
            return f"{self.expression(scope, kind)} is {self.pick('', 'not ')}null"
        if roll == 9:
            return (
                f"({self.condition(scope, depth - 1)} {self.pick('and', 'or')} {self.condition(scope, depth - 1)})"
                if depth > 0
                else "true"
            )
        if roll == 10 and depth > 0:
            return f"not ({self.condition(scope, depth - 1)})"
        return self._subquery(scope, depth) if depth > 0 else f"{self.expression(scope, 'i')} < {self.constant('i')}"

    def _subquery(self, scope: Scope, depth: int) -> str:
        table = self.pick(*self.tables)
        alias = self.alias()
        inner = Scope(((alias, table),))
        both = Scope((*scope.tables, (alias, table))) if self.odds(0.6) else inner
        where = self.condition(both, depth - 1)
        if self.odds(0.4):
            where = f"{alias}.k = {self._same_kind(scope, table.columns['k'])} and {where}"
        kind = self.pick("i", "t", "n")
        return str(self.pick(
            f"{self.pick('', 'not ')}exists (select 1 from {table.name} {alias} where {where})",
            f"{self.expression(scope, kind)} {self.pick('in', 'not in')} (select {self.expression(inner, kind)} from {table.name} {alias} where {where})",
            f"{self.expression(scope, 'i')} {self.pick('<', '>=', '=')} (select {self.pick('count(*)', 'max(' + self.expression(inner, 'i') + ')')} from {table.name} {alias} where {where})",
        ))  # fmt: skip

    def _same_kind(self, scope: Scope, kind: str) -> str:
        keys = [f"{alias}.k" for alias, table in scope.tables if table.columns["k"] == kind]
        return str(self.pick(*keys)) if keys else self.expression(scope, kind)

    # --- statements --------------------------------------------------------------------------------------------

    def source(self) -> tuple[str, Scope]:
        """Return a FROM clause and what it names."""
        first, alias = self.pick(*self.tables), self.alias()
        text, scope = f"{first.name} {alias}", Scope(((alias, first),))
        for _ in range(self.pick(0, 0, 1, 1, 2)):
            table, alias = self.pick(*self.tables), self.alias()
            wider = Scope((*scope.tables, (alias, table)))
            equal = f"{alias}.k = {self._same_kind(scope, table.columns['k'])}"
            how = self.pick("join", "join", "left join", "right join", "full join", "cross join")
            relation = (
                table.name
                if self.odds(0.85)
                else f"(select * from {table.name} y where {self.condition(Scope((('y', table),)), 0)})"
            )
            on = "" if how == "cross join" else f" on {equal}"
            if how not in {"cross join", "full join"} and self.odds(0.35):
                on = f" on {self.condition(wider, 0)}" if self.odds(0.4) else f"{on} and {self.condition(wider, 0)}"
            text, scope = f"{text} {how} {relation} {alias}{on}", wider
        return text, scope

    def select(self, kinds: str = "") -> str:
        """Return a SELECT without ORDER BY; ``kinds`` fixes its columns'."""
        source, scope = self.source()
        where = f" where {self.condition(scope, 2)}" if self.odds(0.75) else ""
        shape = 0 if kinds else self.chance.randrange(10)
        wanted = kinds or "".join(self.pick(*"iitndb") for _ in range(self.chance.randrange(1, 4)))
        shown = [self.expression(scope, kind) for kind in wanted]
        if shape <= 3:
            distinct = "distinct " if self.odds(0.2) else ""
            return f"select {distinct}{', '.join(f'{e} as c{n}' for n, e in enumerate(shown))} from {source}{where}"
        if shape == 4:
            return f"select {', '.join(self.aggregates(scope))} from {source}{where}"
        if shape <= 7:
            by = shown[: self.pick(1, 1, 2)]
            having = self.pick("", "", " having count(*) > 1", f" having max({self.expression(scope, 'i')}) > 2")
            group = self.pick(
                ", ".join(by), ", ".join(by), f"rollup ({', '.join(by)})" if len(set(by)) == len(by) else ", ".join(by)
            )
            return f"select {', '.join([*by, *self.aggregates(scope)])} from {source}{where} group by {group}{having}"
        partition = self._same_kind(scope, self.pick("i", "t"))
        order = self.expression(scope, self.pick("i", "t", "d"))
        function = self.pick(f"rank() over (partition by {partition} order by {order})", f"count(*) over (partition by {partition})",
                             f"sum({self.expression(scope, 'i')}) over (partition by {partition} order by {order})",
                             f"dense_rank() over (order by {order})", f"max({self.expression(scope, 'n')}) over ()")  # fmt: skip
        return f"select {', '.join(shown)}, {function} from {source}{where}"

    def aggregates(self, scope: Scope) -> list[str]:
        """Return some aggregates."""
        i, t, n, d, b = (self.expression(scope, kind) for kind in "itndb")
        choices = ["count(*)", f"count({t})", f"sum({i})", f"sum({n})", f"avg({i})", f"avg({n})", f"min({t})", f"max({d})", f"min({i})",
                   f"bool_or({b})", f"count(distinct {t})", f"sum(distinct {i})", f"string_agg({t}, ',' order by {t})",
                   f"array_agg({i} order by {i})", f"count(*) filter (where {self.condition(scope, 0)})", f"max({n}) - min({n})"]  # fmt: skip
        return [self.pick(*choices) for _ in range(self.chance.randrange(1, 4))]

    def query(self) -> str:
        """Return a whole query."""
        roll = self.chance.randrange(10)
        if roll < 5:
            return self.select()
        if roll == 5:
            kinds = self.pick("i", "it", "nd")
            operation = self.pick("union", "union all", "intersect", "except", "except all")
            return f"{self.select(kinds)} {operation} {self.select(kinds)}"
        if roll == 6:
            kinds = self.pick("i", "ti")
            return f"with w as ({self.select(kinds)}) select count(*), min(c0), count(distinct c0) from w"
        if roll == 7:
            return f"select z.c0, count(*) from ({self.select('t' + self.pick('i', 'n'))}) z group by z.c0"
        kinds = "".join(self.pick(*"itnd") for _ in range(self.pick(1, 2, 3)))
        order = ", ".join(f"{n + 1}{self.pick('', ' desc', ' nulls first')}" for n in range(len(kinds)))
        return f"{self.select(kinds)} order by {order}{self.pick('', ' limit 5', ' limit 3 offset 2', ' offset 4')}"

    def change(self) -> tuple[str, Table]:
        """Return an INSERT, UPDATE or DELETE, and the table that it changes."""
        table = self.pick(*self.tables)
        scope = Scope(((table.name, table),))
        where = f" where {self.condition(scope, self.pick(0, 0, 1, 2))}" if self.odds(0.85) else ""
        roll = self.chance.randrange(3)
        if roll == 0:
            return f"delete from {table.name}{where}{self.pick('', f' returning {table.name}.k')}", table
        plain = [name for name in table.columns if name not in {"k", "id"}]
        if roll == 1:
            name = self.pick(*plain)
            value = self.pick(self.constant(table.columns[name]), self.expression(scope, table.columns[name]), "null")
            return f"update {table.name} set {name} = {value}{where}{self.pick('', f' returning {name}')}", table
        rows = ", ".join(
            "("
            + ", ".join(
                str(1000 + row) if name == "id" else self.constant(kind) for name, kind in table.columns.items()
            )
            + ")"
            for row in range(self.pick(1, 2, 4))
        )
        return f"insert into {table.name} ({', '.join(table.columns)}) values {rows}", table
