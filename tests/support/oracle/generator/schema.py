"""Tables, partitions, views, types and rows at random; where they live."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oracle.values import inserts

if TYPE_CHECKING:
    from collections.abc import Callable

    from oracle.generator.chance import Chance

# Kinds of values and the types that columns of a kind have. Values of one kind can be compared with each other.
TYPES = {
    "i": ("int8", "int4", "int2", "whole"),
    "t": ("text", "varchar(8)"),
    "q": ('text collate "C"',),
    "n": ("numeric(8,2)",),
    "m": ("numeric",),
    "f": ("float8", "float4"),
    "d": ("date",),
    "z": ("timestamp", "timestamptz"),
    "b": ("bool",),
    "u": ("uuid",),
    "c": ("char(4)",),
    "a": ("int4[]",),
    "j": ("jsonb",),
    "e": ("mood",),
    "y": ("bytea",),
}
CASTS = {kind: names[0].partition(" ")[0] for kind, names in TYPES.items()}
DEFINED = (
    "create type mood as enum ('sad', 'ok', 'happy')",
    "create domain whole as int4 check (value > -1000)",
    "create function twice(int8) returns int8 language sql immutable as 'select $1 * 2'",
    "create function shout(text) returns text language sql immutable strict return upper($1) || '!'",
    "create aggregate most(int8) (sfunc = int8larger, stype = int8)",
    "create aggregate joined(text) (sfunc = textcat, stype = text, initcond = '')",
    "create function up_to(int8) returns setof int8 language sql immutable as 'select generate_series(1, $1)'",
    "create function plus(int8, int8 default 1) returns int8 language sql immutable as 'select $1 + $2'",
    "create function any_of(variadic int8[]) returns int8 language sql immutable as 'select $1[1]'",
    "create type halved as (first text, rest text)",
    "create function halves(text) returns halved language sql immutable as 'select left($1, 1), substr($1, 2)'",
    "create function same(text) returns text language plpgsql stable as 'begin return $1; end'",
)
KEY_TYPES = ("int8", "int4", "int2", "text", "varchar(8)", 'text collate "C"', "uuid", "char(4)")
KIND_OF = {name: kind for kind, names in TYPES.items() for name in names}

INTEGERS = (0, 1, 2, 3, 5, 8, -1, -7, 100)
TEXTS = ("a", "A", "b", "ab", "", "a ", "é", "x'y", "10", "zz", "Z", "_a", "a b")
UUIDS = tuple(str(uuid.UUID(int=number * 0x1111_1111_0000_0001_0000_0000_1111)) for number in range(8))
NUMBERS = ("1", "1.0", "1.00", "0", "0.000", "-2.5", "-2.50", "12345678901234567890.5", "0.1", "NaN")
FLOATS = ("0", "-0", "0.25", "-1.5", "3", "1024.75", "NaN", "Infinity")
ARRAYS = ("{}", "{1}", "{1,2}", "{2,1}", "{1,NULL}", "{3,3,3}")
DOCUMENTS = ('{"a": 1}', '{"a": [1, 2], "b": "x"}', "[]", "null", '"t"', "7")
MOODS = ("sad", "ok", "happy")
BYTES = (r"\x", r"\x00", r"\x61ff", r"\x6162")
ODD_NAMES = ('"{} {}"', '"{}É{}"', '"{}.{}"', '"{}""{}"', '"Select{}{}"', "é{}{}", "{}$1{}")  # $1 is no parameter there
SHARDED, REFERENCE, HOME = "sharded", "reference", "home"


@dataclass(frozen=True, slots=True)
class Relation:
    """What a FROM clause may name: its columns by name with their kinds; ``key``: the column to join on."""

    name: str
    columns: dict[str, str]
    key: str = ""


@dataclass(frozen=True, slots=True)
class Table(Relation):
    """A table. ``hidden``: columns whose values no two servers share; ``unique``: an arbiter for ON CONFLICT."""

    place: str = SHARDED
    types: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    parent: str = ""
    base: str = ""  # of a view: the table that has its rows


@dataclass(slots=True)
class _Draft:
    """A table that is being thought of: ``parts`` are its columns' definitions."""

    types: dict[str, str]
    parts: list[str]
    constraints: list[str] = field(default_factory=list)
    hidden: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    parent: str = ""

    def identify(self, unique: tuple[str, ...]) -> None:
        """Add a primary key."""
        self.unique = unique
        self.parts.insert(0, "id int4")
        self.types = {"id": "int4", **self.types}
        self.constraints.append(f"primary key ({', '.join(unique)})")

    def refer(self, action: str) -> None:
        """Add a foreign key to g0, whose rows are on the same shard."""
        self.parent = "g0"
        self.types["p"] = "int4"
        self.parts.append("p int4")
        self.constraints.append(f"foreign key (k, p) references g0 (k, id){action}")

    def table(self, name: str, place: str) -> Table:
        """Return the table."""
        columns = {column: KIND_OF[type_name] for column, type_name in self.types.items()}
        return Table(name, columns, "k", place, self.types, self.hidden, self.computed, self.defaults, self.unique,
                     self.unique, self.parent)  # fmt: skip


class Schema:
    """One schema with its rows."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.definitions: list[str] = list(DEFINED)
        self.tables: list[Table] = []
        self.views: list[Relation] = []
        self._rows: dict[str, list[dict[str, Any]]] = {}
        # Tables of one key type can be joined on the key; one in three has another type.
        self._key_type = KEY_TYPES[chance.seed % len(KEY_TYPES)]
        for number in range(8):
            self._make_table(number, REFERENCE if number == 6 else HOME if number == 7 else SHARDED)

    def placements(self) -> dict[str, Any]:
        """Return the tables as the configuration wants them."""
        return {
            table.name: "reference" if table.place == REFERENCE else {"key": table.key}
            for table in self.tables
            if table.place != HOME
        }

    def add_view(self, relation: Relation, query: str) -> None:
        """Define a view."""
        self.views.append(relation)
        self.definitions.append(f"create view {relation.name} as {query}")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _make_table(self, number: int, place: str) -> None:
        draw = self.chance
        key_type = self._key_type if number < 4 or draw.odds(0.3) else draw.pick(*KEY_TYPES)
        types = {"k": key_type}
        kinds = ["i", "t", "n", "d", "b", *"imfqzucajey"[: draw.below(12)]]
        if number >= 4:
            draw.chance.shuffle(kinds)
        named = draw.pick(*ODD_NAMES) if number >= 2 and draw.odds(0.25) else "{}{}"
        for position, kind in enumerate(kinds[: draw.pick(4, 5, 6, 8)]):
            types[named.format(kind, position)] = draw.pick(*TYPES[kind])
        draft = _Draft(types, [f"{name} {type_name}" for name, type_name in types.items()])
        partitioned = number == 3 and draw.odds(0.6)
        if number == 5 or place != SHARDED or (not partitioned and draw.odds(0.4)):
            draft.identify(("k", "id") if place == SHARDED else ("id",))
        self._special_columns(draft)
        if number == 1 and self.tables[0].unique:
            draft.refer(draw.pick("", " on delete cascade"))
        self.tables.append(draft.table(f"g{number}", place))
        self._define(self.tables[-1], draft, partitioned=partitioned)
        self._fill(self.tables[-1])

    def _special_columns(self, draft: _Draft) -> None:
        """Add columns that Postgres fills, and a check."""
        draw = self.chance
        if draw.odds(0.3):
            draft.hidden = ("s9",)
            draft.parts.append(draw.pick("s9 serial", "s9 int8 generated by default as identity"))
        if "i0" in draft.types and draw.odds(0.4):
            # A virtual column may use no type of a user's.
            how = "stored" if draft.types["i0"] == "whole" else draw.pick("stored", "virtual")
            draft.types["g8"], draft.computed = "int8", ("g8",)
            draft.parts.append(f"g8 int8 generated always as (i0::int8 * 2 + 1) {how}")
        if draw.odds(0.4):
            kind = draw.pick("i", "t")
            draft.types["w7"], draft.defaults = CASTS[kind], ("w7",)
            draft.parts.append(f"w7 {CASTS[kind]} default {'7' if kind == 'i' else repr('dflt')}")
        if "i0" in draft.types and draw.odds(0.3):
            draft.constraints.append("constraint some_check check (i0 <> 77)")

    def _define(self, table: Table, draft: _Draft, *, partitioned: bool) -> None:
        by = next((name for name in table.columns if name.startswith("d")), "")
        split = f" partition by range ({by})" if partitioned and by else ""
        parts = ", ".join([*draft.parts, *draft.constraints])
        self.definitions.append(f"create table {table.name} ({parts}){split}")
        if split:
            middle = "'2024-01-15'"
            self.definitions += [
                f"create table {table.name}_a partition of {table.name} for values from (minvalue) to ({middle})",
                f"create table {table.name}_b partition of {table.name} for values from ({middle}) to (maxvalue)",
                f"create table {table.name}_z partition of {table.name} default",
            ]
        if self.chance.odds(0.3) and not table.unique:
            self.definitions.append(f"create index on {table.name} ({', '.join([*table.columns][:2])})")

    def _fill(self, table: Table) -> None:
        draw = self.chance
        names = [name for name in table.columns if name not in table.computed]
        count = draw.pick(0, 6, 12, 20, 28)
        if table.name in {"g0", "g2"}:
            count = count or 12
        rows = [self._row(table, names, number) for number in range(count)]
        self._rows[table.name] = rows
        made = [[row[name] for name in names] for row in rows]
        self.definitions += inserts(f"{table.name} ({', '.join(names)})", made)

    def _row(self, table: Table, names: list[str], number: int) -> dict[str, Any]:
        row = {name: self.value(table, name, number) for name in names}
        parents = self._rows.get(table.parent)
        if table.parent and parents:
            chosen = self.chance.pick(*parents)
            row |= {"k": chosen["k"], "p": chosen["id"]}
        elif table.parent:
            row["p"] = None
        return row

    def value(self, table: Table, name: str, number: int) -> Any:
        """Return a value for one column of a row."""
        if name == "id":
            return number
        if name not in table.needed and self.chance.odds(0.12):
            return None
        return self.of_kind(table.columns[name])

    def of_kind(self, kind: str) -> Any:
        """Return a value of a kind, as it stands between quotes."""
        draw = self.chance
        makers: dict[str, Callable[[], Any]] = {
            "i": lambda: draw.pick(*INTEGERS, draw.below(30)),
            "n": lambda: f"{(draw.below(5500) - 500) / 100:.2f}",
            "d": lambda: f"2024-01-{draw.below(28) + 1:02d}",
            "z": lambda: f"2024-01-{draw.below(28) + 1:02d} {draw.pick('00:00:00', '12:30:00', '23:59:59.5')}",
            "b": lambda: draw.odds(0.5),
            "c": lambda: draw.pick("a", "a ", "ab", "abcd", "", "é"),
        }
        return makers[kind]() if kind in makers else draw.pick(*CHOICES[kind])


CHOICES = {"t": TEXTS, "q": TEXTS, "u": UUIDS, "m": NUMBERS, "f": FLOATS, "a": ARRAYS, "j": DOCUMENTS, "e": MOODS,
            "y": BYTES}  # fmt: skip
