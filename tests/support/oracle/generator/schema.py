"""Tables, partitions, views, types and rows at random; where they live."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oracle.values import inserts

if TYPE_CHECKING:
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
)
KEY_TYPES = ("int8", "int4", "int2", "text", "varchar(8)", 'text collate "C"', "uuid")
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

    # --- tables --------------------------------------------------------------------------------------------------------

    def _make_table(self, number: int, place: str) -> None:
        draw = self.chance
        key_type = self._key_type if number < 4 or draw.odds(0.3) else draw.pick(*KEY_TYPES)
        types = {"k": key_type}
        kinds = ["i", "t", "n", "d", "b", *"imfqzucajey"[: draw.below(12)]]
        if number >= 4:
            draw.chance.shuffle(kinds)
        for position, kind in enumerate(kinds[: draw.pick(4, 5, 6, 8)]):
            types[f"{kind}{position}"] = draw.pick(*TYPES[kind])
        columns = {name: KIND_OF[type_name] for name, type_name in types.items()}
        extra: list[str] = []
        parts = [f"{name} {type_name}" for name, type_name in types.items()]
        hidden: tuple[str, ...] = ()
        computed: tuple[str, ...] = ()
        defaults: tuple[str, ...] = ()
        unique: tuple[str, ...] = ()
        needed: tuple[str, ...] = ()
        parent = ""
        partitioned = number == 3 and draw.odds(0.6)
        if number == 5 or place != SHARDED or (not partitioned and draw.odds(0.4)):
            unique = ("k", "id") if place == SHARDED else ("id",)
            parts.insert(0, "id int4")
            types = {"id": "int4", **types}
            columns = {"id": "i", **columns}
            extra.append(f"primary key ({', '.join(unique)})")
            needed = unique
        if draw.odds(0.3):
            hidden = ("s9",)
            parts.append(draw.pick("s9 serial", "s9 int8 generated by default as identity"))
        if "i0" in columns and draw.odds(0.4):
            columns["g8"], types["g8"], computed = "i", "int8", ("g8",)
            how = "stored" if types["i0"] == "whole" else draw.pick("stored", "virtual")
            parts.append(f"g8 int8 generated always as (i0::int8 * 2 + 1) {how}")
        if draw.odds(0.4):
            kind = draw.pick("i", "t")
            columns["w7"], types["w7"], defaults = kind, CASTS[kind], ("w7",)
            parts.append(f"w7 {CASTS[kind]} default {'7' if kind == 'i' else repr('dflt')}")
        if "i0" in columns and draw.odds(0.3):
            extra.append("constraint some_check check (i0 <> 77)")
        if number == 1 and self.tables[0].unique:
            parent = "g0"
            columns["p"], types["p"] = "i", "int4"
            parts.append("p int4")
            extra.append(f"foreign key (k, p) references g0 (k, id){draw.pick('', ' on delete cascade')}")
        table = Table(f"g{number}", columns, "k", place, types, hidden, computed, defaults, unique, needed, parent)
        by = next((name for name in columns if name.startswith("d")), "")
        split = f" partition by range ({by})" if partitioned and by else ""
        self.tables.append(table)
        self.definitions.append(f"create table {table.name} ({', '.join([*parts, *extra])}){split}")
        if split:
            middle = "'2024-01-15'"
            self.definitions += [
                f"create table g{number}_a partition of g{number} for values from (minvalue) to ({middle})",
                f"create table g{number}_b partition of g{number} for values from ({middle}) to (maxvalue)",
                f"create table g{number}_z partition of g{number} default",
            ]
        if draw.odds(0.3) and not unique:
            self.definitions.append(f"create index on {table.name} ({', '.join([*table.columns][:2])})")
        self._fill(table)

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
        if kind == "i":
            return draw.pick(*INTEGERS, draw.below(30))
        if kind == "n":
            return f"{(draw.below(5500) - 500) / 100:.2f}"
        if kind == "d":
            return f"2024-01-{draw.below(28) + 1:02d}"
        if kind == "z":
            return f"2024-01-{draw.below(28) + 1:02d} {draw.pick('00:00:00', '12:30:00', '23:59:59.5')}"
        if kind == "b":
            return draw.odds(0.5)
        if kind == "c":
            return draw.pick("a", "a ", "ab", "abcd", "", "é")
        return draw.pick(*_CHOICES[kind])


_CHOICES = {"t": TEXTS, "q": TEXTS, "u": UUIDS, "m": NUMBERS, "f": FLOATS, "a": ARRAYS, "j": DOCUMENTS, "e": MOODS,
            "y": BYTES}  # fmt: skip
