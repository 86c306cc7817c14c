"""Groups of statements that only mean something together: cursors, PREPARE, COPY, settings, temporary tables, DDL amid data."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.corpus import TYPE_OIDS
from oracle.generator.groups import End, Generator, Group, Made, Step
from oracle.generator.literals import quote
from oracle.generator.schema import HOME, SHARDED

if TYPE_CHECKING:
    from oracle.generator.queries import Query

_NAMES = {oid: name for name, oid in TYPE_OIDS.items()}
_SETTINGS = ("timezone = 'Asia/Tokyo'", "timezone = 'America/New_York'", "datestyle = 'German'", "datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'",
             "bytea_output = 'escape'", "extra_float_digits = 0", "enable_hashagg = off", "enable_hashjoin = off", "search_path = public, pg_catalog",
             "plan_cache_mode = force_generic_plan", "default_transaction_read_only = off", "timezone = 'UTC'")  # fmt: skip


class Scenes(Generator):
    """The whole generator."""

    def group(self) -> Group:
        """Return a scene now and then, else another group."""
        if not self.odds(self.rarer / 2):
            return super().group()
        scene: Group = self.pick(
            self.cursor, self.cursor, self.prepared, self.prepared, self.copied_out, self.copied_in, self.with_settings, self.with_settings,
            self.temporary, self.defined, self.several_in_one, self.read_only, self.explained,
        )()  # fmt: skip
        return scene

    def _made(self, sql: str, *, ordered: bool = False, mode: str = "simple") -> Step:
        """Return a step that counts, without parameters."""
        self.number += 1
        self.values = None
        return Step(self._case(sql, ordered=ordered), mode)

    def _in_block(self, *steps: Step, begin: str = "begin") -> Group:
        return Group((self._control(begin), *steps, self._control("rollback")))

    def _plain_query(self) -> Query:
        """Return a query without parameters that has one answer."""
        self.values = None
        while (query := self.query()).everything:
            pass
        return query

    def cursor(self) -> Group:
        """DECLARE, FETCH, MOVE and CLOSE."""
        self.values = None
        query = self.sorted()
        while not query.ordered:
            query = self.sorted()
        steps = [self._made(f"declare c1 {self.pick('', 'no scroll ')}cursor for {query.sql}")]
        steps += [
            self._made(
                self.pick(
                    "fetch 2 from c1",
                    "fetch next from c1",
                    "fetch forward 3 from c1",
                    "move 2 in c1",
                    "fetch 0 from c1" if self.odds(0.1) else "fetch c1",
                ),
                ordered=True,
            )
            for _ in range(self.pick(1, 2, 3))
        ]
        steps.append(
            self._made(self.pick("fetch all from c1", "fetch forward all in c1", "move all in c1"), ordered=True)
        )
        if self.odds(0.5):
            steps += [self._made("close c1"), self._made("fetch 1 from c1")]
        return self._in_block(
            *steps, begin=self.pick("begin", "begin isolation level repeatable read", "begin read only")
        )

    def prepared(self) -> Group:
        """PREPARE, EXECUTE several times with several values, DEALLOCATE."""
        self.values = []
        while (query := self.query()).everything:
            self.values = []
        values = self.values or []
        types = ", ".join(_NAMES.get(value.oid, "unknown") for value in values)
        given = ", ".join("null" if value.text is None else quote(value.text) for value in values)
        name = f"p{self.number}"
        steps = [self._made(f"prepare {name}{f' ({types})' if types else ''} as {query.sql}")]
        for _ in range(self.pick(1, 2, 6 if self.odds(0.2) else 2)):
            step = self._made(f"execute {name}{f'({given})' if given else ''}", ordered=query.ordered)
            steps.append(
                Step(
                    Made(
                        step.case.where,
                        step.case.sql,
                        frozenset({"equal values", "modifiers free"}),
                        in_order=query.ordered,
                    )
                )
            )
        steps.append(self._made(f"deallocate {name}"))
        return Group(tuple(steps))

    def copied_out(self) -> Group:
        """COPY TO STDOUT of tables and queries."""
        table = self.pick(*self.schema.tables)
        names = ", ".join([*table.columns][: self.pick(1, 2, 9)])
        option = self.pick(
            "",
            "",
            " (format csv)",
            " (format csv, header)",
            " (format csv, force_quote *)",
            " (null 'NIL', delimiter '|')",
            " (format binary)",
        )
        if self.odds(0.5):
            return Group(
                (self._made(f"copy {table.name} ({names}) to stdout{option}", mode=self.pick("simple", "extended")),)
            )
        query = self._plain_query()
        ordered = query.ordered and "binary" not in option  # where nothing shows which numbers are equal
        text = f"copy ({query.sql}) to stdout{option}"
        return Group((self._made(text, ordered=ordered, mode=self.pick("simple", "extended")),))

    def copied_in(self) -> Group:
        """COPY FROM STDIN, with mistakes."""
        self.values = None
        table = self.pick(*self.schema.tables)
        names = [name for name in self._targets(table) if name != "p"]
        csv = self.odds(0.4)
        lines = []
        for _ in range(self.pick(0, 1, 3, 8)):
            fields = []
            for name in names:
                if name == "id":
                    self._next_id += 1
                    fields.append(str(self._next_id))
                    continue
                text = str(self._drawn(table.columns[name]))
                if name not in table.needed and self.odds(0.15):
                    fields.append("" if csv else "\\N")
                elif csv:
                    fields.append('"' + text.replace('"', '""') + '"')
                else:
                    fields.append(text.replace("\\", "\\\\"))
            lines.append(("," if csv else "\t").join(fields))
        if self.odds(0.1):
            lines.append("wrong")
        text = f"copy {table.name} ({', '.join(names)}) from stdin{' (format csv)' if csv else ''}"
        self.number += 1
        self.values = None
        case = Made(f"seed {self.seed}, statement {self.number}", text, frozenset({"any row"}), data=tuple(lines))
        look = Step(self._case(self.look(table)), counts=False)
        return self._in_block(Step(case, self.pick("simple", "extended")), look)

    def with_settings(self) -> Group:
        """Queries and changes under other settings."""
        settings = [self._control(f"set local {self.pick(*_SETTINGS)}") for _ in range(self.pick(1, 2))]
        steps: list[Step] = []
        for _ in range(self.pick(1, 2)):
            query = self._plain_query()
            steps.append(self._made(query.sql, ordered=query.ordered, mode=self.pick("simple", "extended", "binary")))
        steps.append(self._made(self.look(self.pick(*self.schema.tables))))
        return self._in_block(*settings, *steps)

    def temporary(self) -> Group:
        """Temporary tables, alone and beside others."""
        self.values = None
        source = self._plain_query().sql if self.odds(0.2) else self.select(self.pick("it", "ti", "in"), 1)
        table = self.pick(*self.schema.tables)
        steps = [self._made(f"create temp table tt {self.pick('', 'on commit drop ')}as {source}")]
        steps += [
            self._made(sql)
            for sql in self.chance.sample([
                "select * from tt", "select count(*), count(c0) from tt", "insert into tt select * from tt", "delete from tt where c0 is null",
                f"select count(*) from tt, {table.name}", "update tt set c1 = null", "select c0, count(*) from tt group by c0",
                f"select x.k, y.c1 from {table.name} x join tt y on y.c0::text = x.k::text", f"delete from {table.name} where k::text in (select c0::text from tt)",
            ], 3)
        ]  # fmt: skip
        return self._in_block(*steps)

    def defined(self) -> Group:
        """DDL amid data: the rows that are there are changed by it, and read."""
        self.values = None
        table = self.pick(*self.schema.tables)
        name = table.name
        column = self.pick(*[one for one in table.columns if one not in {"k", "id", "p", *table.computed}])
        ddl = self.pick(
            f"alter table {name} add column z1 int4 default 5", f"alter table {name} add column z1 text", f"alter table {name} add column z1 int8 not null default 3",
            f"create index z_index on {name} ({column})", f"alter table {name} add constraint z_check check ({column} is not null or true)", f"alter table {name} rename column {column} to z2",
            f"alter table {name} drop column {column} cascade", f"alter table {name} alter column {column} set default null", f"create view z_view as select k, {column} as c from {name}",
            f"alter table {name} alter column {column} set not null", f"comment on table {name} is 'x'", f"create unique index z_unique on {name} (k, {column})",
        )  # fmt: skip
        steps = [self._made(ddl)]
        if "z1" in ddl:
            steps += [
                self._made(f"select k, z1 from {name}"),
                self._made(f"update {name} set z1 = null where k is null"),
                self._made(f"select z1, count(*) from {name} group by 1"),
            ]
        elif "z2" in ddl:
            steps += [self._made(f"select k, z2 from {name}"), self._made(f"select {column} from {name}")]
        elif "z_view" in ddl:
            steps += [
                self._made("select c, count(*) from z_view group by c"),
                self._made(f"select count(*) from z_view z join {name} x on x.k = z.k"),
            ]
        else:
            steps.append(self._made(f"select count(*), count({column}) from {name}"))
        return self._in_block(*steps)

    def several_in_one(self) -> Group:
        """Several statements in one simple query, which are one transaction."""
        self.values = None
        table = self.pick(*self.schema.tables)
        query = self._plain_query()
        key = self.constant(table.columns["k"])
        change = self.pick(
            f"delete from {table.name} where k = {key}",
            f"delete from {table.name}",
            f"update {table.name} set k = k where k = {key}" if table.place != SHARDED else "select 1",
        )
        text = self.pick(
            f"begin; {change}; select count(*) from {table.name}; rollback", f"select 1 as a; {query.sql}", f"begin; select count(*) from {table.name}; rollback; select 2",
            f"begin; {change}; savepoint a; {change}; rollback to a; select count(*) from {table.name} where k = {key}; rollback",
            f"select count(*) from {table.name}; select count(*) from {self.pick(*self.schema.tables).name}", f"{change}; select 1 / 0", f";; select k from {table.name} ;",
        )  # fmt: skip
        return Group((self._made(text),))

    def read_only(self) -> Group:
        """A transaction that may not write, and one that fails and goes on."""
        table = self.pick(*[one for one in self.schema.tables if one.place != HOME])
        query = self._plain_query()
        steps = [
            self._made(query.sql, ordered=query.ordered),
            self._made(f"delete from {table.name} where k = {self.constant(table.columns['k'])}"),
            self._made("select 1"),
        ]
        return self._in_block(
            *steps,
            begin=self.pick(
                "begin read only", "begin isolation level repeatable read, read only", "start transaction read only"
            ),
        )

    def explained(self) -> Group:
        """EXPLAIN, whose text is no one's business, and what follows it."""
        query = self._plain_query()
        name = self.pick(*self.schema.tables).name
        explain = self._made(f"explain (costs off) {query.sql}")
        case = Made(explain.case.where, explain.case.sql, frozenset({"count free"}))
        return Group((Step(case), self._made(f"select count(*) from {name}")), End.NOTHING)
