"""Changes through views of sharded and reference tables: other names and orders, conditions, check options, nested."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from oracle.generator.rarer_changes import RarerChanges
from oracle.generator.schema import HOME, Table

if TYPE_CHECKING:
    from oracle.generator.changes import Change

_KEPT = frozenset({"id", "p", "s9"})  # what the generator knows by these names


class WrittenViews(RarerChanges):
    """Makes changes; ``through_views`` is the share of those that go through a view, 0 as if there were none."""

    through_views = 0.08

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.written: list[Table] = []
        own, others = random.Random(f"views of {seed}"), self.chance  # the rest of a seed is what it was without these
        self.chance = own
        every, tables = self.schema.tables, [table for table in self.schema.tables if table.place != HOME]
        self.schema.tables = tables  # a view of tables of the home shard beside sharded ones is refused
        for number, table in enumerate((*tables, *tables[:2])):
            self.written.append(self._view(f"wv{number}", table))
        for number in range(2):
            self.written.append(self._view(f"wy{number}", self.pick(*self.written)))
        self.schema.tables = every
        self.chance = others

    def change(self) -> Change:
        """Return a change through a view, or another one."""
        if not self.through_views or not self.odds(self.through_views):
            return super().change()
        maker = self.pick(
            self.insert, self.insert, self.insert, self.update, self.update, self.update, self.delete, self.upsert,
            self.insert_select, self.arbiter, self.update_from, self.delete_using, self.joined, self.looked_up,
            self.with_before, self.with_inside, self.insert_from, self.from_values, self.assigned, self.queue,
        )  # fmt: skip
        made: Change = maker(self.pick(*self.written))
        self._settle(made.sql)
        return made

    def _view(self, name: str, table: Table) -> Table:
        """Define a view: ``names`` are its columns', by those of the table."""
        names = {column: column for column in (*table.columns, *table.hidden)}
        plain = [column for column in names if column not in _KEPT | {"k"}]
        for _ in range(self.pick(0, 1, 2)):
            one, other = self.pick(*plain), self.pick(*plain)
            names[one], names[other] = names[other], names[one]
        alike = [column for column in plain if table.columns.get(column) == table.columns["k"]]
        if alike and self.odds(0.25):
            other = self.pick(*alike)
            names["k"], names[other] = names[other], names["k"]
        left_out = {
            column for column in plain if column not in table.needed and names[column] != "k" and self.odds(0.15)
        }
        shown = [column for column in names if column not in left_out]
        self.chance.shuffle(shown)
        columns = ", ".join(column if names[column] == column else f"{column} as {names[column]}" for column in shown)
        condition = f" where {self.condition(((table.name, table),), 0)}" if self.odds(0.6) else ""
        check = self.pick("", "", " with check option", " with local check option") if condition else ""
        option = self.pick("", "", " with (security_barrier)", " with (security_invoker)")
        self.schema.definitions.append(
            f"create view {name}{option} as select {columns} from {table.name}{condition}{check}"
        )

        def renamed(columns: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[column] for column in columns if column not in left_out)

        return replace(
            table,
            name=name,
            columns={names[column]: table.columns[column] for column in shown if column in table.columns},
            types={names[column]: table.types[column] for column in shown if column in table.types},
            computed=renamed(table.computed),
            defaults=renamed(table.defaults),
            unique=renamed(table.unique),
            needed=renamed(table.needed),
            base=table.base or table.name,
        )
