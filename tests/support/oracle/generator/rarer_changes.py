"""Changes that people write less often: WITH before them and in them, lists of VALUES to join with, rows assigned at once."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.generator.changes import Change, Changes
from oracle.generator.schema import SHARDED, Table

if TYPE_CHECKING:
    from oracle.generator.expressions import Scope


class RarerChanges(Changes):
    """Makes changes; ``rarer`` is the share of those that this file has among all."""

    def change(self) -> Change:
        """Return a change of these or of the others."""
        if not self.odds(self.rarer):
            return super().change()
        maker = self.pick(
            self.upsert, self.upsert, self.with_before, self.with_inside, self.with_inside, self.insert_from, self.insert_from,
            self.from_values, self.from_values, self.assigned, self.assigned, self.merge_rows, self.merge_rows, self.queue, self.several_truncated,
        )  # fmt: skip
        made: Change = maker(self.some_table())
        self._settle(made.sql)
        return made

    def _again(self, table: Table, alias: str = "") -> str:
        """Return a RETURNING of old and new rows, or of all."""
        name = alias or table.name
        if self.odds(0.4):
            return ""
        chosen = self.pick(*table.columns)
        return str(self.pick(
            f" returning old.{chosen} as a, new.{chosen} as b", f" returning with (old as o, new as n) n.{chosen} as c, o.k as d",
            f" returning {name}.k, (select count(*) from {self.schema.tables[6].name}) as c" if table.place == SHARDED else "",
            f" returning coalesce(old.{chosen}, new.{chosen}) as c", "" if table.hidden else f" returning {name}.*",
            f" returning {', '.join(f'{name}.{one}' for one in table.columns)}", f" returning {name}.k is null as c, 1 as d",
        ))  # fmt: skip

    # --- INSERT ------------------------------------------------------------------------------------------------------

    def upsert(self, table: Table) -> Change:
        """ON CONFLICT with constraints by name, conditions, rows and subqueries."""
        if not table.unique:
            table = self.pick(*[one for one in self.schema.tables if one.unique])
        plain = self.insert(table)
        text = plain.sql.partition(" returning ")[0]
        others = [name for name in table.columns if name not in {*table.unique, *table.computed, "p"}]
        first, second = self.pick(*others), self.pick(*others)
        target = self.pick(
            f"({', '.join(table.unique)})", f"({', '.join(table.unique[::-1])})", f"on constraint {table.name}_pkey"
        )
        sets = self.pick(
            f"{first} = coalesce(excluded.{first}, {table.name}.{first})", f"{first} = excluded.{first}", f"({first}) = row(excluded.{first})",
            f"{first} = default" if first in table.defaults else f"{first} = null",
            *([f"({first}, {second}) = (excluded.{first}, {table.name}.{second})", f"{first} = excluded.{first}, {second} = excluded.{second}"] if first != second else []),
            f"{first} = (select excluded.{first})", f"{first} = case when excluded.{first} is null then {table.name}.{first} else excluded.{first} end",
        )  # fmt: skip
        where = self.pick(
            "",
            "",
            f" where {table.name}.{first} is distinct from excluded.{first}",
            f" where excluded.{second} is not null",
        )
        text += f" on conflict {target} {self.pick('do nothing', *[f'do update set {sets}{where}'] * 4)}"
        return Change(text + self._again(table), self._shown(table), small=True)

    def insert_from(self, table: Table) -> Change:
        """INSERT of a query that has no table, groups, sorts or joins sets."""
        names = [name for name in self._targets(table) if name != "p"]
        kinds = {name: table.columns[name] for name in names}
        self._next_id += 40
        other = self.some_table()
        scope: Scope = (("a", other),)

        def row(number: str, key: str, near: Scope) -> str:
            made = [number if name == "id" else key if name == "k" else self.value(near, kinds[name], 0) if near else self.constant(kinds[name], typed=True)
                    for name in names]  # fmt: skip
            return ", ".join(made)

        key = self.constant(kinds["k"], typed=True) if "k" in kinds else "null"
        same = other.columns["k"] == kinds.get("k") and "k" in other.needed
        source = self.pick(
            f"select {row(f'{self._next_id} + v', key, ())} from generate_series(1, {self.pick(1, 3)}) v",
            f"select {row(f'{self._next_id} + a.v', key, ())} from (values (1), (2)) a(v)",
            f"select {row(str(self._next_id), key, ())} union all select {row(str(self._next_id + 1), key, ())}",
            f"select {row(f'{self._next_id} + count(*)', key, ())} from {other.name} a",
            *([f"select {row(f'{self._next_id} + row_number() over (order by {self._order(scope)})', 'a.k', scope)} from {other.name} a",
               f"select {row(f'{self._next_id} + dense_rank() over (order by {self._order(scope)})', 'a.k', scope)} from {other.name} a order by {self._order(scope)} limit 3"]
              if same else []),
        )  # fmt: skip
        overriding = self.pick("", "", " overriding user value", " overriding system value")
        text = f"insert into {table.name} ({', '.join(names)}){overriding} {source}"
        if table.unique and self.odds(0.2):
            text += " on conflict do nothing"
        return Change(text + self._again(table), self._shown(table), small=True)

    def _order(self, scope: Scope) -> str:
        return ", ".join(self.everything(scope))

    # --- WITH --------------------------------------------------------------------------------------------------------

    def with_before(self, table: Table) -> Change:
        """WITH ... SELECT before a change that reads it."""
        other = self.alike(table)
        near: Scope = (("y", other),)
        head = f"with w as {self.pick('', 'materialized ')}(select y.k, {self.value(near, 'i', 0)} as n from {other.name} y{self.where(near, 1)})"
        chosen = self.pick(*self._settable(table))
        text = f"{head} " + self.made(
            lambda: f"delete from {table.name} where k in (select k from w)", lambda: f"delete from {table.name} using w where w.k = {table.name}.k and w.n > 2",
            lambda: f"update {table.name} set {chosen} = null where exists (select 1 from w where w.k = {table.name}.k)",
            lambda: f"update {table.name} set {chosen} = {self.value(((table.name, table),), table.columns[chosen], 1)} where k = any (select k from w where n < 5)",
            lambda: f"delete from {table.name} where (select count(*) from w) > 1 and k = {self.constant(table.columns['k'])}",
        )  # fmt: skip
        return Change(text + self._again(table), self._shown(table))

    def with_inside(self, table: Table) -> Change:
        """Changes in WITH, of one key mostly."""
        key = self.constant(table.columns["k"])
        where = f" where k = {key}" if self.odds(0.85) else self._narrow(table, table.name)[0]
        chosen = self.pick(*self._settable(table))
        value = self.constant(table.columns[chosen], typed=True)
        inner = self.pick(f"delete from {table.name}{where} returning *", f"update {table.name} set {chosen} = {value}{where} returning *",
                          f"{self.insert(table).sql.partition(' returning ')[0]} returning *")  # fmt: skip
        again = self.alike(table) if self.odds(0.3) else table
        text = f"with d as ({inner}) " + self.pick(
            f"select count(*), count({chosen}) from d", f"select k, {chosen} as c from d order by 1, 2", "select d.k from d",
            f"select count(*) from {again.name} where k = {key}",
            f"select d.k, count(b.k) from d left join {again.name} b on b.k = d.k group by d.k",
        )  # fmt: skip
        return Change(text, self._shown(table), small=True)

    # --- lists of rows -----------------------------------------------------------------------------------------------

    def from_values(self, table: Table) -> Change:
        """UPDATE and DELETE of the rows of a list."""
        kind = table.columns["k"]
        keys = list(dict.fromkeys(self._drawn(kind) for _ in range(self.pick(1, 2, 3))))
        chosen = self.pick(*self._settable(table))
        cast = self.cast(kind)
        values = ", ".join(
            f"('{key.replace(chr(39), chr(39) * 2)}'::{cast}, {self.constant(table.columns[chosen], typed=True)})"
            for key in keys
        )
        name = table.name
        text = self.made(
            lambda: f"update {name} set {chosen} = v.c from (values {values}) v(k, c) where v.k = {name}.k",
            lambda: f"delete from {name} using (values {values}) v(k, c) where v.k = {name}.k", lambda: f"delete from {name} where (k, {chosen}) in (values {values})",
            lambda: f"update {name} set {chosen} = null where k in (select v.k from (values {values}) v(k, c))",
            lambda: f"with v(k, c) as (values {values}) update {name} set {chosen} = v.c from v where {name}.k = v.k",
            lambda: f"update {name} t set {chosen} = (select v.c from (values {values}) v(k, c) where v.k = t.k) where t.k in (select v.k from (values {values}) v(k, c))",
        )  # fmt: skip
        return Change(text + ("" if " t set " in text else self._again(table)), self._shown(table), small=True)

    def assigned(self, table: Table) -> Change:
        """UPDATE of rows, parts of values, ONLY, and of what the row itself holds."""
        scope: Scope = ((table.name, table),)
        settable = self._settable(table)
        one, two = self.pick(*settable), self.pick(*settable)
        arrays, documents = ([name for name in settable if table.columns[name] == kind] for kind in "aj")
        other = self.alike(table)
        near: Scope = (("y", other),)
        forms = [f"{one} = {self.odd_typed(scope, table.columns[one])}", f"{one} = {one}"]
        if one != two:
            forms += [
                f"({one}, {two}) = row({self.constant(table.columns[one], typed=True)}, {two})",
                f"{one} = null, {two} = {two}",
            ]
            if table.columns[one] in "itnd" and table.columns[two] in "itnd":
                first, second = (self.value(near, table.columns[name], 0) for name in (one, two))
                forms += [
                    f"({one}, {two}) = (select min({first}), max({second}) from {other.name} y where y.k = {table.name}.k)"
                ] * 2
        forms += [f"{name}[2] = 7" for name in arrays] + [f"{name}['z'] = '1'" for name in documents if self.odds(0.3)]
        where = self.pick(
            self._narrow(table, table.name)[0], f" where {self.odd_key(scope, f'{table.name}.k', table.columns['k'])}"
        )
        if self.odds(0.25):
            return Change(
                f"delete from {self.pick('', 'only ')}{table.name}{where}{self._again(table)}", self._shown(table)
            )
        only = "only " if self.odds(0.15) else ""
        return Change(
            f"update {only}{table.name} set {self.pick(*forms)}{where}{self._again(table)}", self._shown(table)
        )

    def odd_typed(self, scope: Scope, kind: str) -> str:
        """Return a new value that is made of the row's own ones."""
        return self.made(lambda: self.value(scope, kind, 2), lambda: f"case when {self.condition(scope, 0)} then {self.value(scope, kind, 0)} end",
                         lambda: f"coalesce({self.value(scope, kind, 0)}, {self.constant(kind, typed=True)})")  # fmt: skip

    def queue(self, table: Table) -> Change:
        """Take the first rows of an order, as queues do."""
        name = table.name
        if "id" not in table.columns:
            return self.assigned(table)
        chosen = self.pick(*self._settable(table))
        lock = self.pick("", " for update", " for update skip locked", " for no key update")
        where = self.pick("", f" where k = {self.constant(table.columns['k'])}", f" where {chosen} is not null")
        columns = ", ".join(table.unique)
        pick = f"select {columns} from {name}{where} order by {', '.join(table.unique[::-1])} limit {self.pick(1, 3)}{lock}"
        target = f"({columns})" if len(table.unique) > 1 else columns
        text = self.pick(
            f"delete from {name} where {target} in ({pick})", f"update {name} set {chosen} = null where {target} in ({pick})",
            f"with q as ({pick}) delete from {name} using q where {' and '.join(f'q.{one} = {name}.{one}' for one in table.unique)}",
            f"with q as ({pick}) update {name} set {chosen} = null from q where {' and '.join(f'q.{one} = {name}.{one}' for one in table.unique)}",
        )  # fmt: skip
        return Change(text + self._again(table), self._shown(table), small=True)

    # --- MERGE and TRUNCATE ------------------------------------------------------------------------------------------

    def merge_rows(self, table: Table) -> Change:
        """MERGE of a list of rows or of a query by the key, with several clauses and RETURNING."""
        kind = table.columns["k"]
        keys = list(dict.fromkeys(self._drawn(kind) for _ in range(self.pick(1, 2, 3))))
        cast = self.cast(kind)
        other = self.alike(table)
        near: Scope = (("y", other),)
        chosen = self.pick(*self._settable(table))
        values = ", ".join(
            f"('{key.replace(chr(39), chr(39) * 2)}'::{cast}, {number})" for number, key in enumerate(keys)
        )
        source = self.pick(f"(values {values}) s(k, n)", f"(select y.k, count(*) as n from {other.name} y{self.where(near, 0)} group by y.k) s",
                           f"(select distinct y.k, 1 as n from {other.name} y where {self.key_condition(near)}) s")  # fmt: skip
        own: Scope = ((table.name, table),)
        change = f"update set {chosen} = {self.value(own, table.columns[chosen], 1)}"
        clauses = [f" when matched and s.n = {self.pick(0, 1)} then {self.pick('delete', change, 'do nothing')}" if self.odds(0.6) else "",
                   f" when matched then {self.pick('delete', change, change, 'do nothing')}"]  # fmt: skip
        if "p" not in table.columns and self.odds(0.7):
            names = list(dict.fromkeys(name for name in ("k", *table.needed) if name not in table.computed))
            self._next_id += 100
            row = [
                "s.k"
                if name == "k"
                else f"{self._next_id} + s.n"
                if name == "id"
                else self.constant(table.columns[name])
                for name in names
            ]
            clauses.append(
                f" when not matched{self.pick('', ' and s.n > 0', ' and s.k is not null')} then insert ({', '.join(names)}) values ({', '.join(row)})"
            )
        if self.odds(0.3):
            clauses.append(
                f" when not matched by source and {self.condition(own, 0)} then {self.pick('delete', change)}"
            )
        again = self.pick(
            "",
            "",
            f" returning merge_action(), {table.name}.k",
            " returning merge_action() as a, s.n, old.k as b, new.k as c",
        )
        return Change(
            f"merge into {table.name} using {source} on s.k = {table.name}.k{''.join(clauses)}{again}",
            self._shown(table),
        )

    def several_truncated(self, table: Table) -> Change:
        """TRUNCATE of several tables, or a DELETE of everything."""
        others = [one for one in self.schema.tables if one.place == table.place and one is not table and not one.parent]
        second = self.pick(*others) if others else table
        shown = (*self._shown(table), *self._shown(second))
        if self.odds(0.5):
            return Change(f"delete from {table.name}{self._again(table)}", self._shown(table))
        return Change(
            f"truncate table {table.name}, {second.name}{self.pick('', ' restart identity')} cascade",
            tuple({one.name: one for one in shown}.values()),
        )
