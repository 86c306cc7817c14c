"""INSERT, UPDATE, DELETE and TRUNCATE in all their forms, alone and in blocks with savepoints."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oracle.generator.literals import quote
from oracle.generator.schema import SHARDED, Table
from oracle.generator.traps import Traps

if TYPE_CHECKING:
    from oracle.generator.expressions import Scope


@dataclass(frozen=True, slots=True)
class Change:
    """A statement that writes, and the tables that show what it did. ``small``: it may be committed."""

    sql: str
    tables: tuple[Table, ...]
    small: bool = False


class Changes(Traps):
    """Makes changes."""

    _next_id = 1000

    def change(self) -> Change:
        """Return a change."""
        table = self.pick(*self.schema.tables)
        maker = self.pick(self.insert, self.insert, self.update, self.update, self.delete, self.insert_select, self.arbiter,
                          self.update_from, self.delete_using, self.joined, self.joined, self.looked_up, self.merge)  # fmt: skip
        made: Change = maker(table)
        return made

    def _shown(self, table: Table) -> tuple[Table, ...]:
        """Return the tables whose rows may be other ones afterwards."""
        root = next((one for one in self.schema.tables if one.name == table.base), table)
        children = [one for one in self.schema.tables if one.parent == root.name]
        return (root, *children)

    def look(self, table: Table) -> str:
        """Return a query for all that a table holds."""
        return f"select {', '.join(table.columns)} from {table.name}"

    # --- INSERT ------------------------------------------------------------------------------------------------------

    def _targets(self, table: Table) -> list[str]:
        """Return the columns that an INSERT names."""
        names = [name for name in table.columns if name not in table.computed]
        kept = [name for name in names if name in {"k", *table.needed} or self.odds(0.85)]
        if self.odds(0.15):
            self.chance.shuffle(kept)
        return kept

    def _fresh(self, table: Table, name: str) -> str:  # noqa: PLR0911 - a line for each form
        """Return a value for a column of a new row."""
        kind = table.columns[name]
        if name == "id":
            self._next_id += 1
            return str(self.pick(self._next_id, self._next_id, self._next_id, self._next_id, self.below(30)))
        if name == "p":
            return str(self.pick("null", "null", "null", "null", self.below(12)))
        if name in table.defaults and self.odds(0.4):
            return "default"
        if name not in table.needed and self.odds(0.08):
            return "null"
        if name == "k" and self.odds(0.15):
            return self.pick(f"{self.constant(kind, typed=True)}", f"coalesce({self.constant(kind, typed=True)}, null)")  # type: ignore[no-any-return]
        if kind == "i" and self.odds(0.1):
            return f"{self.below(9)} + {self.below(9)}"
        return self.constant(kind)

    def insert(self, table: Table) -> Change:
        """INSERT ... VALUES, of one row or several."""
        names = self._targets(table)
        count = self.pick(1, 1, 2, 3, 5)
        rows = [f"({', '.join(self._fresh(table, name) for name in names)})" for _ in range(count)]
        text = f"insert into {table.name} ({', '.join(names)}) values {', '.join(rows)}{self._returning(table)}"
        return Change(text, self._shown(table), small=True)

    def _returning(self, table: Table, alias: str = "") -> str:
        if self.odds(0.6):
            return ""
        scope: Scope = ((alias or table.name, table),)
        shown = [self.value(scope, self.kind_in(scope, "itnidb"), 1) for _ in range(self.pick(1, 2))]
        if self.odds(0.2):
            shown = [f"{alias or table.name}.{name}" for name in table.columns]
        elif self.odds(0.1):
            shown.append(f"{self.pick('old', 'new')}.k")
        return f" returning {', '.join(shown)}"

    def insert_select(self, table: Table) -> Change:
        """INSERT ... SELECT."""
        names = [name for name in self._targets(table) if name != "p"]
        source, scope = self.source(self.pick(1, 1, 2))
        shown = []
        for name in names:
            if name == "id":
                self._next_id += 40
                first = [f"{alias}.id" for alias, known in scope if "id" in known.columns]
                shown.append(f"{self._next_id} + {first[0]}" if first and self.odds(0.7) else str(self._next_id))
            elif name == "k" and self.odds(0.6):
                shown.append(self.key_like(scope, table.columns["k"]))
            else:
                shown.append(self.value(scope, table.columns[name], 1))
        text = f"insert into {table.name} ({', '.join(names)}) select {', '.join(shown)} from {source}{self.where(scope, 1)}"
        return Change(text + self._returning(table), self._shown(table))

    def arbiter(self, table: Table) -> Change:
        """INSERT ... ON CONFLICT, where there is an arbiter."""
        with_one = [one for one in self.schema.tables if one.unique]
        if not table.unique:
            table = self.pick(*with_one)
        plain = self.insert(table)
        text = plain.sql.partition(" returning ")[0]
        others = [name for name in table.columns if name not in {*table.unique, *table.computed, "p"}]
        target = f"({', '.join(table.unique)})"
        chosen = self.pick(*others)
        scope: Scope = (("excluded", table), (table.name, table))
        text += self.made(
            lambda: f" on conflict {target} do nothing", lambda: " on conflict do nothing",
            lambda: f" on conflict {target} do update set {chosen} = excluded.{chosen}",
            lambda: f" on conflict {target} do update set {chosen} = {self.value(scope, table.columns[chosen], 1)}",
            lambda: f" on conflict {target} do update set {chosen} = {table.name}.{chosen} "
            f"where {self.condition(scope, 0)}",
        )  # fmt: skip
        return Change(text + self._returning(table), self._shown(table), small=True)

    # --- UPDATE and DELETE -------------------------------------------------------------------------------------------

    def _settable(self, table: Table) -> list[str]:
        return [name for name in table.columns if name not in {"k", "id", "p", *table.computed}]

    def _narrow(self, table: Table, alias: str) -> tuple[str, bool]:
        """Return a WHERE clause and whether it is narrow."""
        scope: Scope = ((alias, table),)
        if self.odds(0.35):
            return f" where {alias}.k = {self.key_constant(table.columns['k'])}", True
        if self.odds(0.1):
            return "", False
        return f" where {self.condition(scope, self.pick(0, 1, 2))}", False

    def update(self, table: Table) -> Change:
        """UPDATE of one column or several, with subqueries."""
        alias = self.alias() if self.odds(0.4) else ""
        name = alias or table.name
        scope: Scope = ((name, table),)
        chosen = list(dict.fromkeys(self.pick(*self._settable(table)) for _ in range(self.pick(1, 1, 2))))
        kinds = [table.columns[one] for one in chosen]
        if len(chosen) > 1 and self.odds(0.4):
            values = ", ".join(self.value(scope, kind, 1) for kind in kinds)
            sets = f"({', '.join(chosen)}) = row({values})"
        else:
            sets = ", ".join(f"{one} = {self._new_value(scope, table, one)}" for one in chosen)
        if table.place == SHARDED and self.odds(0.04):
            sets += f", k = {self.constant(table.columns['k'])}"
        where, small = self._narrow(table, name)
        text = f"update {table.name}{f' as {alias}' if alias else ''} set {sets}{where}{self._returning(table, alias)}"
        return Change(text, self._shown(table), small)

    def _new_value(self, scope: Scope, table: Table, name: str) -> str:
        kind = table.columns[name]
        return self.made(
            lambda: self.constant(kind), lambda: self.value(scope, kind, 2), lambda: self.value(scope, kind, 1),
            lambda: "null", lambda: "default" if name in table.defaults else "null",
            lambda: self.scalar(scope, kind, 1) if kind in "itnd" else self.value(scope, kind, 1),
        )  # fmt: skip

    def update_from(self, table: Table) -> Change:
        """UPDATE ... FROM where every row meets one row at most."""
        other = self.pick(*self.schema.tables)
        name = self.pick(*self._settable(table))
        kind = table.columns[name]
        if kind in "bajy" or table.columns["k"] != other.columns["k"]:
            return self.update(table)
        scope: Scope = (("o", other),)
        grouped = f"(select o.k, {self.pick('min', 'max')}({self.value(scope, kind, 1)}) as m from {other.name} o group by o.k) s"
        text = f"update {table.name} set {name} = s.m from {grouped} where s.k = {table.name}.k{self._and(table)}"
        return Change(text + self._returning(table), self._shown(table))

    def _and(self, table: Table) -> str:
        return f" and {self.condition(((table.name, table),), 0)}" if self.odds(0.5) else ""

    def delete(self, table: Table) -> Change:
        """DELETE with a condition."""
        alias = self.alias() if self.odds(0.4) else ""
        where, small = self._narrow(table, alias or table.name)
        text = f"delete from {table.name}{f' {alias}' if alias else ''}{where}{self._returning(table, alias)}"
        if self.odds(0.08):
            return Change(f"truncate {table.name}{' cascade' if self._shown(table)[1:] else ''}", self._shown(table))
        return Change(text, self._shown(table), small)

    def delete_using(self, table: Table) -> Change:
        """DELETE ... USING."""
        other = self.pick(*self.schema.tables)
        alias = self.alias()
        scope: Scope = ((alias, other), (table.name, table))
        equal = self._equal(((table.name, table),), other, alias) or "true"
        more = f" and {self.condition(scope, self.pick(0, 1))}" if self.odds(0.6) else ""
        text = f"delete from {table.name} using {other.name} {alias} where {equal}{more}{self._returning(table)}"
        return Change(text, self._shown(table))

    # --- joined by anything ------------------------------------------------------------------------------------------

    def _off_key(self, table: Table, name: str) -> tuple[str, Scope, str]:
        """Return another table with its alias, both in sight, and a condition on both that need not name a key."""
        other = self.pick(*self.schema.tables, *self.schema.tables, table)
        alias = self.alias()
        scope: Scope = ((name, table), (alias, other))
        pairs = [
            (one, two) for one, kind in table.columns.items() for two, also in other.columns.items() if kind == also
        ]
        equal = [f"{name}.{one} = {alias}.{two}" for one, two in pairs if table.columns[one] not in "jay"]
        found = [self.pick(*equal)] if equal and self.odds(0.85) else []
        if not found or self.odds(0.5):
            found.append(self.condition(scope, self.pick(0, 1)))
        return f"{other.name} {alias}", scope, " and ".join(found)

    def joined(self, table: Table) -> Change:
        """UPDATE ... FROM and DELETE ... USING on any condition: which rows change follows from it, not to what."""
        alias = self.alias() if self.odds(0.4) else ""
        name = alias or table.name
        source, _, condition = self._off_key(table, name)
        if self.odds(0.25):
            more, _, also = self._off_key(table, name)
            source, condition = f"{source}, {more}", f"{condition} and {also}"
        target = f"{table.name}{f' as {alias}' if alias else ''}"
        if self.odds(0.4):
            text = f"delete from {target} using {source} where {condition}"
        else:
            own: Scope = ((name, table),)
            chosen = self.pick(*self._settable(table))
            text = f"update {target} set {chosen} = {self.value(own, table.columns[chosen], 1)} from {source} where {condition}"
        return Change(text + self._returning(table, alias), self._shown(table))

    def looked_up(self, table: Table) -> Change:
        """UPDATE and DELETE by what subqueries find that refer to the row."""
        name = table.name
        source, scope, condition = self._off_key(table, name)
        chosen = self.pick(*self._settable(table))
        kind = table.columns[chosen]
        if kind in "bajy" or self.odds(0.4):
            word = self.pick("exists", "not exists")
            where = f" where {word} (select 1 from {source} where {condition})"
            text = f"delete from {name}{where}" if self.odds(0.5) else f"update {name} set {chosen} = null{where}"
        else:
            found = (
                f"(select {self.pick('min', 'max')}({self.value(scope[1:], kind, 1)}) from {source} where {condition})"
            )
            text = f"update {name} set {chosen} = {found}{self._narrow(table, name)[0]}"
        return Change(text + self._returning(table), self._shown(table))

    def merge(self, table: Table) -> Change:
        """MERGE on any condition, which changes what is there and puts in what is not."""
        source, scope, condition = self._off_key(table, table.name)
        alias, other = scope[1]
        own: Scope = ((table.name, table),)
        chosen = self.pick(*self._settable(table))
        change = f"update set {chosen} = {self.value(own, table.columns[chosen], 1)}"
        matched = self.pick("delete", "do nothing", change)
        text = f"merge into {table.name} using {source} on {condition} when matched then {matched}"
        if self.odds(0.3):
            less = self.condition(own, 0)
            text += f" when not matched by source and {less} then {self.pick('delete', change)}"
        if table.columns["k"] == other.columns["k"] and "p" not in table.columns and self.odds(0.6):
            names = [name for name in ("k", *table.needed) if name not in table.computed]
            names = list(dict.fromkeys(names))
            self._next_id += 40
            values = [f"{alias}.k" if one == "k" else str(self._next_id) if one == "id" else
                      self.constant(table.columns[one]) for one in names]  # fmt: skip
            rest = self.pick("", f" and {self.condition(scope[1:], 0)}")
            text += f" when not matched{rest} then insert ({', '.join(names)}) values ({', '.join(values)})"
        return Change(text, self._shown(table))

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def mistake(self) -> str:
        """Return a statement that fails, mostly, the same everywhere."""
        table = self.pick(*self.schema.tables)
        name, key = table.name, table.columns["k"]
        wrong = {"i": "'abc'", "u": "'abc'", "t": "5", "q": "5", "c": "5"}[key]
        constant = self.constant(key)
        i = self.pick(*[column for column, kind in table.columns.items() if kind == "i"], "k") if key == "i" else "1"
        return self.made(
            lambda: f"select k / 0 from {name}" if key == "i" else f"select 1 / 0 from {name}",
            lambda: f"select nothing from {name} where k = {constant}", lambda: f"select * from {name} where k = {wrong}",
            lambda: f"select k, count(*) from {name}", lambda: f"select no_function(k) from {name}",
            lambda: f"select (select k from {name}) from {name}", lambda: f"select k from {name} x, {name} y",
            lambda: f"select k from {name} order by 7", lambda: f"select k from {name} limit -1",
            lambda: f"select ({i} || 'x')::int4 from {name}", lambda: "select * from no_table",
            lambda: f"select k from {name} where k = {constant} and", lambda: "select 2147483647 + 1",
            lambda: f"insert into {name} (k) values ({constant}, 1)", lambda: f"insert into {name} (k, k) values (1, 2)",
            lambda: f"insert into {name} (k, nothing) values ({constant}, 1)",
            lambda: f"update {name} set nothing = 1", lambda: f"delete from {name} where nothing = 1",
            lambda: f"select sum(k) over () from {name} group by {self.pick('nothing', 'count(*)')}",
            lambda: f"select k from {name} union select 1, 2", lambda: f"select max(count(*)) from {name}",
            lambda: f"select 'x'::numeric from {name}", lambda: f"select {quote('2024-02-31')}::date, k from {name}",
            lambda: f"select k from {name} group by rollup (nothing)", lambda: "select 1 where 1",
            lambda: f"select distinct on (k) k from {name} order by 1 desc, nothing",
            lambda: f"insert into {self._with_check().name} (k, i0) values ({self.constant(self._with_check().columns['k'])}, 99999999999)",
        )  # fmt: skip

    def _with_check(self) -> Table:
        found = [one for one in self.schema.tables if "i0" in one.columns and not one.unique]
        return self.pick(*found, self.schema.tables[0])  # type: ignore[no-any-return]
