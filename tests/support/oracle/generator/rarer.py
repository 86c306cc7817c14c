"""Queries that people write less often: frames, USING, LATERAL, mixed set operations, functions of sets, row locks.

What is drawn here has one right answer as `queries` promises: frames by ROWS stand over an order of all columns, functions
that return sets are compared as multisets, and no expression fails for one row and not for another.
"""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.corpus import TYPE_OIDS, Value
from oracle.generator.literals import quote
from oracle.generator.queries import Queries, Query
from oracle.generator.schema import HOME, Relation, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from oracle.generator.expressions import Scope

_EXCLUSIONS = ("", "", " exclude current row", " exclude group", " exclude ties", " exclude no others")
_GROUPING = ("rollup ({0})", "cube ({0})", "grouping sets (({0}), ())", "grouping sets ({0}, rollup ({0}))",
             "grouping sets (({0}), ({0}), ())", "cube (({0})), ()")  # fmt: skip


class Rarer(Queries):
    """Makes queries; ``rarer`` is the share of those that this file has among all."""

    rarer = 0.15

    def query(self) -> Query:
        """Return a query of these or of the others."""
        if not self.odds(self.rarer):
            return super().query()
        made = self.made_query(*self.rare_makers())
        self._settle(made.sql)
        return made

    def rare_makers(self) -> list[Callable[[], Query]]:
        """Return what makes rarer queries."""
        return [
            self.framed, self.named_windows, self.over_groups, self.using, self.using, self.nested_joins, self.renamed,
            self.lateral, self.lateral_rows, self.mixed, self.levels, self.sets_of_rows, self.whole_rows, self.locked,
            self.odd_values, self.odd_values, self.odd_keys, self.odd_keys, self.walk, self.placed_subqueries,
            self.placed_subqueries, self.common_tables, self.no_columns, self.of_documents,
        ]  # fmt: skip

    def _settle(self, sql: str) -> None:
        """Give parameters that stand in no form that was chosen a type, which nothing else would."""
        for at, value in enumerate(self.values or ()):
            if self.values and f"${at + 1}" not in sql:
                self.values[at] = Value(value.text, TYPE_OIDS["text"])

    def some_table(self) -> Table:
        """Return a table."""
        return self.pick(*self.schema.tables)  # type: ignore[no-any-return]

    def alike(self, known: Relation) -> Table:
        """Return a table whose key can be compared with this one's; none of the home shard, mostly."""
        kind = known.columns[known.key]
        found = [one for one in self.schema.tables if one.columns["k"] == kind]
        shared = [one for one in found if one.place != HOME]
        return self.pick(*(shared if shared and self.odds(0.9) else found or self.schema.tables))  # type: ignore[no-any-return]

    # --- windows -----------------------------------------------------------------------------------------------------

    def _aggregated(self, scope: Scope) -> str:
        i = self.value(scope, "i", 0)
        return self.made(
            lambda: f"sum({i})", lambda: "count(*)", lambda: f"min({self.value(scope, 't', 0)})", lambda: f"max({i})",
            lambda: f"count({self.value(scope, 'd', 0)})", lambda: f"avg({self.value(scope, 'n', 0)})",
            lambda: f"sum({i}) filter (where {self.value(scope, 'b', 0)})",
        )  # fmt: skip

    def _frame(self, scope: Scope) -> str:
        """Return an ORDER BY with a frame."""
        way = self.pick("", " desc", " nulls first", " desc nulls last")
        kind = self.kind_in(scope, "itnd")
        known = self.columns(scope, kind)
        by = str(self.pick(*known)) if known else self.value(scope, kind, 0)
        offset = {"i": ("1", "3"), "n": ("1.5", "20"), "d": ("'2 days'::interval", "'1 week'::interval")}.get(
            kind, ("1", "2")
        )
        mode = self.pick("groups", "rows", "range" if kind in "ind" else "groups")
        if mode == "rows":
            by, way = ", ".join(self.everything(scope)), ""
        near, far = offset if mode == "range" else ("1", "2")
        begin = self.pick("unbounded preceding", f"{far} preceding", f"{near} preceding", "current row")
        end = self.pick("current row", f"{near} following", f"{far} following", "unbounded following")
        return f"order by {by}{way} {mode} between {begin} and {end}{self.pick(*_EXCLUSIONS)}"

    def _partition(self, scope: Scope) -> str:
        part = self.key_like(scope, "i") if self.odds(0.5) else self.value(scope, self.kind_in(scope, "itdb"), 0)
        return f"partition by {part} " if self.odds(0.6) else ""

    def framed(self) -> Query:
        """Aggregates over frames of each kind, and functions of one row of a frame."""
        source, scope = self.source(self.pick(1, 1, 2))
        whole = ", ".join(self.everything(scope))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        shown = [self.value(scope, self.kind_in(scope), 0)]
        shown += [
            self.made(
                lambda: f"{self._aggregated(scope)} over ({self._partition(scope)}{self._frame(scope)})",
                lambda: f"{self._aggregated(scope)} over ({self._partition(scope)}{self._frame(scope)})",
                lambda: f"nth_value({i}, 2) over ({self._partition(scope)}order by {whole} rows between unbounded preceding and unbounded following)",
                lambda: f"last_value({t}) over ({self._partition(scope)}order by {whole} rows between current row and 1 following)",
                lambda: f"lead({i}, 2, {i}) over ({self._partition(scope)}order by {whole})",
                lambda: f"lag({t}, 1, 'none') over ({self._partition(scope)}order by {whole})",
            )
            for _ in range(self.pick(1, 2))
        ]  # fmt: skip
        return Query(f"select {self.listed(shown)} from {source}{self.where(scope)}")

    def named_windows(self) -> Query:
        """WINDOW, and windows that build on others."""
        source, scope = self.source(self.pick(1, 2))
        order = f"order by {self.value(scope, self.kind_in(scope, 'itd'), 0)}"
        shown = [self.value(scope, self.kind_in(scope), 0), f"{self._aggregated(scope)} over w", f"{self.pick('rank', 'dense_rank')}() over w2",
                 f"{self._aggregated(scope)} over (w {order} groups 1 preceding)"]  # fmt: skip
        text = f"select {self.listed(shown)} from {source}{self.where(scope)}"
        part = self.key_like(scope, "i") if self.odds(0.5) else self.value(scope, self.kind_in(scope, "itdb"), 0)
        text += f" window w as (partition by {part}), w2 as (w {order})"
        if self.odds(0.4):
            return Query(f"{text} order by 1, 2, 3, 4{self._limit()}", ordered=True)
        return Query(text)

    def over_groups(self) -> Query:
        """Windows over groups, and groups sorted by what is not shown."""
        source, scope = self.source(self.pick(1, 1, 2))
        by = self.key_like(scope, "i") if self.odds(0.5) else self.value(scope, self.kind_in(scope, "itdb"))
        shown = [by, "count(*)", self.made(
            lambda: f"rank() over (order by count(*) {self.pick('', 'desc')})", lambda: "sum(count(*)) over ()",
            lambda: f"sum(sum({self.value(scope, 'i', 0)})) over (order by {by})" if "$" not in by else "max(count(*)) over ()",
            lambda: f"dense_rank() over (order by max({self.value(scope, 't', 0)}) nulls first)",
            lambda: "count(*) * 100 / sum(count(*)) over ()",
        )]  # fmt: skip
        text = f"select {self.listed(shown)} from {source}{self.where(scope)} group by 1"
        if self.odds(0.3):
            text += f" having count(*) >= (select count(*) from {self.some_table().name} h where h.k is null)"
        if self.odds(0.5):
            return Query(f"{text} order by {self.pick('count(*) desc', 'min(' + self.value(scope, 'i', 0) + ')', '2')}, 1, 2, 3{self._limit()}",
                         ordered=True)  # fmt: skip
        return Query(text)

    # --- FROM --------------------------------------------------------------------------------------------------------

    def using(self) -> Query:
        """USING and NATURAL joins, whose columns are one."""
        first = self.some_table()
        second, third = self.alike(first), self.alike(first)
        how = self.pick("join", "left join", "right join", "full join", "full join")
        kind = first.columns["k"]
        scope: Scope = (("a", first), ("b", second))
        if self.odds(0.25):
            i = {
                one.name: next((n for n, found in one.columns.items() if found == "i" and n != "k"), "null::int4")
                for one in (first, second)
            }
            source = f"(select k, {i[first.name]} as i from {first.name}) a natural {how} (select k, {i[second.name]} as {self.pick('i', 'j')} from {second.name}) b"
            return Query(f"select k, count(*), max(i) from {source} group by k")
        name = " as u" if self.odds(0.2) else ""
        source = f"{first.name} a {how} {second.name} b using (k){name}"
        if self.odds(0.3) and not name:
            source += f" {self.pick('join', 'left join', 'full join')} {third.name} c using (k)"
            scope = (*scope, ("c", third))
        key = "u.k" if name else "k"
        where = self.pick("", f" where {key} = {self.key_constant(kind)}", f" where {key} is not null and {self.condition(scope, 1)}",
                          f" where {key} in ({self.constant(kind)}, {self.constant(kind)})", f" where {self.condition(scope, 1)}")  # fmt: skip
        return Query(self.made(
            lambda: f"select {key}, a.k, b.k, {self.value(scope, self.kind_in(scope))} as c3 from {source}{where}",
            lambda: f"select {key}, count(*), count(a.k), count(b.k) from {source}{where} group by {key}",
            lambda: f"select distinct {key} from {source}{where}", lambda: f"select count(*), count({key}) from {source}{where}",
            lambda: f"select {key}, {self.value(scope, self.kind_in(scope))} as c1 from {source}{where} order by {key} desc nulls last, c1",
        ))  # fmt: skip

    def nested_joins(self) -> Query:
        """Joins in parentheses."""
        first = self.some_table()
        second, third = self.alike(first), self.alike(first)
        scope: Scope = (("a", first), ("b", second), ("c", third))
        how = ("join", "left join", "right join", "full join")
        inner = f"({second.name} b {self.pick(*how)} {third.name} c on b.k = c.k)"
        source = f"{first.name} a {self.pick(*how)} {inner} on a.k = {self.pick('b', 'c')}.k"
        shown = [self.value(scope, self.kind_in(scope)) for _ in range(2)]
        if self.odds(0.4):
            return Query(f"select count(*), {self.aggregate(scope)} from {source}{self.where(scope)}")
        return Query(f"select a.k as a, b.k as b, c.k as c, {self.listed(shown)} from {source}{self.where(scope)}")

    def renamed(self) -> Query:
        """Aliases with columns, of tables and subqueries, and * of them."""
        table = self.some_table()
        names = {name: f"r{number}" for number, name in enumerate(table.columns)}
        renamed = Relation("", {names[name]: kind for name, kind in table.columns.items()}, names[table.key])
        scope: Scope = (("x", renamed),)
        inner = f"(select {', '.join(table.columns)} from {table.name}) x({', '.join(names.values())})"
        source = f"{table.name} x({', '.join(names.values())})"
        if table.hidden or list(table.columns) != [*table.types]:
            source = inner  # the columns' order is another
        where = self.where(scope, 1)
        if self.odds(0.4):
            return Query(f"select * from {inner}{where}")
        return Query(
            f"select {self.value(scope, self.kind_in(scope))} as c, count(*) from {self.pick(source, inner)}{where} group by 1"
        )

    def lateral(self) -> Query:
        """LATERAL subqueries that count, sort or limit what belongs to a row."""
        first = self.some_table()
        second = self.alike(first)
        scope: Scope = (("a", first),)
        both: Scope = (("y", second), *scope)
        where = f"y.k = a.k{f' and {self.condition(both, 0)}' if self.odds(0.5) else ''}"
        if self.odds(0.15):
            where = self.condition(both, 0)
        i = self.value((("y", second),), "i", 0)
        inner, known = self.made(
            lambda: f"select count(*) as n, max({i}) as m from {second.name} y where {where}",
            lambda: f"select {i} as n, {i} as m from {second.name} y where {where} order by 1 limit {self.pick(1, 2)}",
            lambda: f"select distinct {i} as n, 1 as m from {second.name} y where {where}",
            lambda: f"select {i} as n, count(*) as m from {second.name} y where {where} group by 1 having count(*) > 0",
            lambda: f"select {i} as n, 0 as m from {second.name} y where {where} union all select {self.value(scope, 'i', 0)}, 1",
        ), Relation("", {"n": "i", "m": "i"}, "n")  # fmt: skip
        wider: Scope = (("l", known), *scope)
        join = self.pick(
            "cross join lateral ({}) l",
            "left join lateral ({}) l on true",
            ", lateral ({}) l",
            "left join lateral ({}) l on l.n > 0",
        )
        source = f"{first.name} a{'' if join[0] == ',' else ' '}{join.format(inner)}"
        if self.odds(0.3):
            return Query(f"select a.k, sum(l.n), max(l.m) from {source}{self.where(wider, 1)} group by a.k")
        return Query(
            f"select a.k, {self.value(scope, self.kind_in(scope), 0)} as c, l.n, l.m from {source}{self.where(wider, 1)}"
        )

    def lateral_rows(self) -> Query:
        """Functions that return sets in FROM, of what stands to their left."""
        source, scope = self.source(self.pick(1, 1, 2))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        made = self.made(
            lambda: f"generate_series(1, abs({i}) % 4) f(v)", lambda: f"unnest(array[{i}, null, 3]) with ordinality f(v, o)",
            lambda: f"regexp_split_to_table({t}, '') f(v)", lambda: f"string_to_table({t}, 'a') f(v)",
            lambda: f"jsonb_array_elements(jsonb_build_array({i}, {t})) f(v)", lambda: f"jsonb_each_text(jsonb_build_object('a', {i}, 'b', {t})) f(v, w)",
            lambda: f"rows from (generate_series(1, 2), unnest(array[{i}])) f(v, w)",
            lambda: f"unnest({self.value(scope, 'a', 0)}) f(v)", lambda: f"(values ({i}), (0)) f(v)",
            lambda: f"json_table(jsonb_build_array({i}, 2), '$[*]' columns (v int8 path '$', o for ordinality)) f",
        )  # fmt: skip
        join = "cross join lateral" if self.odds(0.6) else "left join lateral"
        tail = " on true" if join.startswith("left") else ""
        head = self.pick(
            "select f.*, {0} as c from", "select f.v, count(*), {1} from", "select count(*), count(f.v), {1} from"
        )
        group = " group by f.v" if head.startswith("select f.v") else ""
        shown = head.format(self.value(scope, self.kind_in(scope), 0), f"min({i})")
        return Query(f"{shown} {source} {join} {made}{tail}{self.where(scope, 1)}{group}")

    # --- sets of rows ------------------------------------------------------------------------------------------------

    def mixed(self) -> Query:
        """Set operations of columns of different types, nested, with orders and limits inside."""
        kinds = self.pick("in", "ni", "if", "tc", "dz", "im", "it", "i", "t")
        forms = {
            "i": ("{}::int2", "{}::int4", "{}::int8", "{}"),
            "n": ("{}", "{}::numeric"),
            "t": ("{}", "{}::varchar", "{}::text"),
        }
        parts = []
        for _ in range(self.pick(2, 2, 3)):
            source, scope = self.source(self.pick(1, 1, 2))
            shown = []
            for kind in kinds[:1] if len(parts) % 2 == 0 or len(kinds) == 1 else kinds[1:]:
                value = self.value(scope, kind, 0)
                small = f"({value}) % 100" if kind == "i" else f"({value})"
                shown.append(self.pick(*forms.get(kind, ("{}",))).format(small))
            shown.append(self.pick("null", "1", f"({self.value(scope, 'i', 0)})"))
            limit = f" order by 1, 2 limit {self.pick(1, 3)}" if self.odds(0.15) else ""
            text = f"select {self.listed(shown)} from {source}{self.where(scope, 1)}{limit}"
            parts.append(f"({text})" if limit or self.odds(0.2) else text)
        text = parts[0]
        for part in parts[1:]:
            text += f" {self.pick('union', 'union all', 'intersect', 'except', 'except all', 'union all')} {part}"
        if self.odds(0.3):
            return Query(f"select count(*), count(c0), count(c1) from ({text}) u")
        return Query(text)

    def levels(self) -> Query:
        """Grouping sets with GROUPING()."""
        source, scope = self.source(self.pick(1, 1, 2))
        by = list(dict.fromkeys(self.pick(*self.columns(scope, self.kind_in(scope, "itdb")), "1") for _ in range(2)))
        by = [one for one in by if one != "1"] or [self.key_like(scope, scope[0][1].columns[scope[0][1].key])]
        if any("$" in one or "'" in one or "::" in one for one in by):
            return self.grouped()
        plain = ", ".join(by)
        group = self.pick(*_GROUPING).format(plain)
        shown = [*by, f"grouping({plain})", "count(*)", self.aggregate(scope)]
        text = f"select {self.listed(shown)} from {source}{self.where(scope)} group by {group}"
        if self.odds(0.3):
            text += f" having grouping({by[0]}) = {self.pick(0, 1)}"
        return Query(text)

    def sets_of_rows(self) -> Query:
        """Functions that return sets among the columns."""
        source, scope = self.source(self.pick(1, 1, 2))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        rows = self.made(
            lambda: f"generate_series(1, abs({i}) % 3 + 1)", lambda: f"unnest(array[{i}, 1])", lambda: f"regexp_split_to_table({t}, '')",
            lambda: f"unnest({self.value(scope, 'a', 0)})", lambda: f"jsonb_array_elements_text(jsonb_build_array({t}, {i}))",
        )  # fmt: skip
        kind = self.kind_in(scope, "itnd")
        distinct = self.pick("", "", "distinct ")
        text = f"select {distinct}{self.value(scope, kind, 0)} as c0, {rows} as c1 from {source}{self.where(scope, 1)}"
        if self.odds(0.3):
            return Query(f"{text} order by 1, 2{self._limit()}", ordered=True)
        if self.odds(0.3):
            return Query(f"select z.c1, count(*) from ({text}) z group by z.c1")
        return Query(text)

    def whole_rows(self) -> Query:
        """A table's name in place of a column."""
        known = self.pick(*[one for one in self.schema.tables if not one.hidden], *self.schema.views)
        scope: Scope = (("x", known),)
        where = self.where(scope, 1)
        return Query(self.made(
            lambda: f"select count(x), count(distinct x.k) from {known.name} x{where}", lambda: f"select x is null, x is not null, x.k from {known.name} x{where}",
            lambda: f"select to_jsonb(x) from {known.name} x{where}", lambda: f"select row_to_json(x)::text from {known.name} x{where}",
            lambda: f"select x::text from {known.name} x{where}", lambda: f"select (x).k, (x).* from {known.name} x{where}",
            lambda: f"select count(*) from {known.name} x join {known.name} y on x = y", lambda: f"select row(x.*) is null as a, x.k from {known.name} x{where}",
            lambda: f"select jsonb_object_keys(to_jsonb(x)) as c, count(*) from {known.name} x{where} group by 1",
        ))  # fmt: skip

    def no_columns(self) -> Query:
        """SELECT of nothing, of constants, of nobody, and of what is the same for all rows."""
        source, scope = self.source(self.pick(1, 2))
        where = self.where(scope, 1)
        return Query(self.made(
            lambda: f"select from {source}{where}", lambda: f"select count(*) from (select from {source}{where}) z",
            lambda: f"select 1 from {source} where false", lambda: f"select {self.value(scope, 'i')} as c, count(*) from {source} where null group by 1",
            lambda: f"select 'x' as c, null as d from {source}{where}", lambda: f"select distinct 'x' as c from {source}{where}",
            lambda: f"select max({self.value(scope, 'i')}) from {source} where 1 = 0", lambda: f"select count(*) from {source}{where} limit 0",
            lambda: f"select random() >= 0 as c, now() = now() as d from {source}{where}", lambda: f"select count(*) from {source} where random() >= 0",
            lambda: f"select current_date >= date '2024-01-01' as c, current_user = session_user as d, count(*) from {source}{where}",
            lambda: f"select 1 from {source}{where} having count(*) > 1", lambda: f"select 'x' as c from {source}{where} group by ()",
            lambda: f"select exists (select 1 from {source}{where}) as c, not exists (select 1 from {source}{where}) as d",
        ))  # fmt: skip

    def of_documents(self) -> Query:
        """JSON, arrays and ranges made of columns, aggregated and taken apart."""
        source, scope = self.source(self.pick(1, 1, 2))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        shown = [self.made(
            lambda: f"jsonb_object_agg('k' || {i}, {i}) filter (where {i} is not null)", lambda: f"json_arrayagg({t} order by {t} null on null)",
            lambda: f"json_object('n': count(*), 'm': max({i}))", lambda: f"range_agg(int4range(least({i}, 5)::int4, 7))",
            lambda: f"array_agg(array[{i}, 1] order by {i})", lambda: f"range_intersect_agg(int4range(least({i}, 5)::int4, 7))",
            lambda: f"sum(make_interval(hours => {i}::int4))", lambda: f"max(array[{i}])", lambda: f"min(make_interval(mins => {i}::int4))",
            lambda: f"array_agg(distinct {t} order by {t} desc nulls last)", lambda: f"string_agg({t}, '' order by {t} desc)",
            lambda: f"any_value({i}) is null", lambda: f"bool_and({i} > 0) and bool_or({t} > 'a')", lambda: f"array_agg({t} order by {t}, {i}) filter (where {i} > 1)",
            lambda: f"(array_agg({i} order by {i} desc nulls last))[1]", lambda: f"string_agg(distinct {t}, ',' order by {t})",
            lambda: f"percentile_disc(array[0.25, 0.75]) within group (order by {i})", lambda: f"jsonb_agg(jsonb_build_array({i}, {t}) order by {i}, {t})",
            lambda: f"dense_rank(2, 'b') within group (order by {i}, {t})", lambda: f"count(distinct {t} || 'x') filter (where {i} <> 3)",
        ) for _ in range(self.pick(1, 2))]  # fmt: skip
        if self.odds(0.5):
            by = self.key_like(scope, "i") if self.odds(0.5) else self.value(scope, self.kind_in(scope, "itdb"), 0)
            return Query(f"select {self.listed([by, *shown])} from {source}{self.where(scope)} group by 1")
        return Query(f"select {self.listed(shown)} from {source}{self.where(scope)}")

    # --- values ------------------------------------------------------------------------------------------------------

    def odd_value(self, scope: Scope) -> str:
        """Return a value that the more usual formulas have not."""
        i, t, d = (self.value(scope, kind, 0) for kind in "itd")
        n, z = self.value(scope, "n", 0), self.value(scope, "z", 0)
        return self.made(
            lambda: f"format('%s/%L', {i}, {t})", lambda: f"split_part({t} || ',x', ',', 1)", lambda: f"position('a' in {t})",
            lambda: f"regexp_replace({t}, '[a-z]', '<\\&>', 'g')", lambda: f"overlay({t} placing 'zz' from 1 for 1)", lambda: f"lpad({t}, 3, '*')",
            lambda: f"translate({t}, 'ab', 'xy')", lambda: f"trim(both 'a' from {t})", lambda: f"concat_ws('-', {t}, {i}, {d})", lambda: f"reverse({t}) || repeat('x', 2)",
            lambda: f"encode(convert_to({t}, 'UTF8'), 'hex')", lambda: f"({t} collate \"C\") < 'a'", lambda: f"{t} between symmetric 'b' and 'a'",
            lambda: f"{i} between symmetric 5 and 1", lambda: f"({i} > 2) is unknown", lambda: f"({i}, {t}) is not null", lambda: f"num_nulls({i}, {t}, {d})",
            lambda: f"width_bucket({n}, 0, 50, 5)", lambda: f"mod({n}, 3)", lambda: f"trunc({n}, 1)", lambda: f"div({n}, 7)", lambda: f"gcd({i}, 12)", lambda: f"power(({i}) % 5, 2)",
            lambda: f"round({n})", lambda: f"({n})::int4", lambda: f"({i})::numeric(10,3)", lambda: f"to_char({n}, 'FM999.00')", lambda: f"scale({n})", lambda: f"({n})::float8",
            lambda: f"extract(dow from {d})", lambda: f"to_char({d}, 'YYYY-DDD')", lambda: f"date_trunc('week', {d})", lambda: f"{d} - date '2024-01-10'",
            lambda: f"({d}, {d}) overlaps (date '2024-01-05', date '2024-01-20')", lambda: f"{z} at time zone 'Asia/Tokyo'", lambda: f"extract(hour from {z})",
            lambda: f"({z})::date", lambda: f"{z} - interval '36 hours'", lambda: f"date_bin('15 minutes', {z}, timestamp '2024-01-01')", lambda: f"age({z}, timestamp '2024-01-01')",
            lambda: f"({z})::time", lambda: f"({z})::text", lambda: f"make_interval(days => ({i})::int4)", lambda: f"{d} + make_interval(days => ({i})::int4)",
            lambda: f"int4range(least({i}, 5)::int4, 7) @> 6", lambda: f"int8range({i}, null)", lambda: f"daterange({d}, null, '[]') && daterange('2024-01-10', '2024-01-12')",
            lambda: f"array[{i}, 2] && array[3, 2]::int8[]", lambda: f"array_position(array[1, {i}, 2]::int8[], 2)", lambda: f"(array[{i}, 4, 5])[2:]", lambda: f"array_to_string(array[{t}, 'q'], '+', '?')",
            lambda: f"to_jsonb({i}) @> '1'", lambda: f"jsonb_build_object('a', {t}) ->> 'a'", lambda: f"jsonb_path_exists(to_jsonb({i}), '$ ? (@ > 2)')", lambda: f"pg_typeof({i})::text",
            lambda: f"row({i}, {t})::text", lambda: f"({i}) = any('{{1,2,3}}')", lambda: f"hashtext({t})", lambda: f"({i})::bit(8)", lambda: f"case {i} when 1 then 'one' when 2 then 'two' else {t} end",
            lambda: f"twice({i})", lambda: f"shout({t})", lambda: f"same({t})", lambda: f"sqrt(abs({n}))",
            lambda: f"timezone('America/New_York', {z})", lambda: f"{t} is json", lambda: f"coalesce({i}, 0) << 2", lambda: f"(-0.0::float8) * {i}", lambda: f"normalize({t}) = {t}",
        )  # fmt: skip

    def odd_values(self) -> Query:
        """Functions and operators of many types, as columns, conditions, groups and orders."""
        source, scope = self.source(self.pick(1, 1, 1, 2))
        shown = [self.odd_value(scope) for _ in range(self.pick(1, 2, 3))]
        where = self.where(scope, 1)
        if self.odds(0.25):
            return Query(f"select {shown[0]} as c, count(*) from {source}{where} group by 1")
        if self.odds(0.25):
            return Query(
                f"select {self.value(scope, 'i', 0)} as c0, {shown[0]} as c1 from {source}{where} order by c0, c1",
                ordered=True,
            )
        if self.odds(0.15):
            return Query(
                f"select {self.pick('min', 'max', 'count')}({shown[0]}) from {source}{where}"
                if "row(" not in shown[0]
                else f"select count(*) from {source}{where}"
            )
        return Query(f"select {self.pick('', '', 'distinct ')}{self.listed(shown)} from {source}{where}")

    def odd_key(self, scope: Scope, key: str, kind: str) -> str:
        """Return a condition on a key that a reader of predicates may take for a route, or for none."""
        one, two = self.constant(kind, typed=True), self.constant(kind, typed=True)
        return self.made(
            lambda: f"{key} = (select {one})", lambda: f"{key} = (values ({one}))", lambda: f"{key} in (values ({one}), ({two}))", lambda: f"row({key}) = row({one})",
            lambda: f"({key} = {one}) is true", lambda: f"({key} = {one}) is not false", lambda: f"({key} = {one}) = true", lambda: f"not ({key} <> {one})",
            lambda: f"not ({key} = {one} or {key} = {two})", lambda: f"not ({key} <> {one} or {key} is null)", lambda: f"{key} = {one} and {key} = {two}",
            lambda: f"({key} = {one} or {key} = {two}) and {self.condition(scope, 0)}", lambda: f"{key} = {one} or {self.condition(scope, 0)}",
            lambda: f"{key} = coalesce(null, {one})", lambda: f"{key} = case when true then {one} end", lambda: f"{key} = greatest({one}, {two})", lambda: f"{key} = null",
            lambda: f"{key} in (null, {one})", lambda: f"{key} not in (null, {one})", lambda: f"{key} = some(array[{one}, null])", lambda: f"{key} = all(array[{one}])",
            lambda: f"{key} >= {one} and {key} <= {one}", lambda: f"{key} between {one} and {one}", lambda: f"nullif({key}, {one}) is null", lambda: f"coalesce({key}, {one}) = {one}",
            lambda: f"case when {key} = {one} then true else false end", lambda: f"case {key} when {one} then 1 end = 1", lambda: f"{key} = {key}", lambda: f"{key} = {one} is null",
            lambda: f"{key} = {one} and ({key} = {two} or {self.condition(scope, 0)})", lambda: f"({key}, {key}) = ({one}, {two})", lambda: f"exists (select 1 where {key} = {one})",
            lambda: f"{key} = any(array(select {one}))", lambda: f"{key} in (select unnest(array[{one}, {two}]))", lambda: f"{key} is not distinct from null", lambda: f"({key} = {one} and true) or false",
            lambda: f"{one} in ({key}, {two})", lambda: f"{one} = any(array[{key}])", lambda: f"{key} = any(array[{one}, {two}]) and {key} <> {one}", lambda: f"{key} in ({one}) and {key} in ({one}, {two})",
        )  # fmt: skip

    def odd_keys(self) -> Query:
        """Conditions on keys in odd forms."""
        source, scope = self.source(self.pick(1, 1, 2))
        alias, known = next(((alias, known) for alias, known in scope if known.key), scope[0])
        condition = self.odd_key(scope, f"{alias}.{known.key}", known.columns[known.key])
        tail = self.pick("", "", f" and {self.condition(scope, 0)}")
        return Query(self.made(
            lambda: f"select {alias}.{known.key}, {self.value(scope, self.kind_in(scope), 0)} as c from {source} where {condition}{tail}",
            lambda: f"select count(*), min({self.value(scope, 'i', 0)}) from {source} where {condition}{tail}",
            lambda: f"select {alias}.{known.key}, count(*) from {source} where {condition}{tail} group by 1",
        ))  # fmt: skip

    # --- subqueries --------------------------------------------------------------------------------------------------

    def placed_subqueries(self) -> Query:
        """Subqueries in places where they are seldom seen."""
        outer, inner = self.some_table(), self.some_table()
        scope: Scope = (("a", outer),)
        near: Scope = (("y", inner),)
        both: Scope = (*near, *scope)
        where = self.correlated(inner, "y", scope, both, 1)
        alone = self.where(near, 0)
        i = self.value(near, "i", 0)
        count = f"(select count(*) from {inner.name} y{where})"
        source = f"{outer.name} a"
        return Query(*self.pick(
            (f"select a.k, {count} as c from {source}{self.where(scope, 0)} order by {count}, 1", False),
            (f"select a.k, count(*) from {source} group by a.k having count(*) > (select count(*) from {inner.name} y where y.k is null)", False),
            (f"select a.k from {source} order by 1 limit (select count(*) / 2 from {inner.name} y{alone})", True),
            (f"select (select sum(y2.n) from (select {i} as n from {inner.name} y{where}) y2) as c from {source}", False),
            (f"select a.k, array(select {i} from {inner.name} y{where} order by 1) as c from {source}", False),
            (f"select a.k, exists (select {i} from {inner.name} y{where} {self.pick('union', 'except', 'intersect')} select 1) as c from {source}", False),
            (f"select a.k from {source} where (a.k, {self.value(scope, 'i', 0)}) = (select y.k, {i} from {inner.name} y where y.k = a.k order by 1, 2 limit 1)", False),
            (f"select count(*) filter (where exists (select 1 from {inner.name} y{where})) from {source}", False),
            (f"select sum((select count(*) from {inner.name} y{where})) from {source}", False),
            (f"select case when exists (select 1 from {inner.name} y{where}) then 'yes' else 'no' end as c, count(*) from {source} group by 1", False),
            (f"select coalesce((select max({i}) from {inner.name} y{where}), -1) as c, a.k from {source}", False),
            (f"select a.k from {source} where {count} between 1 and 3", False),
            (f"select a.k from {source} where exists (select 1 from {inner.name} y where y.k = a.k and exists (select 1 from {outer.name} z where z.k = y.k and z.k = a.k))", False),
            (f"select a.k, (select string_agg(distinct y.k::text, ',' order by y.k::text) from {inner.name} y{where}) as c from {source}", False),
            (f"select (select count(*) from {inner.name} y where y.k is not distinct from max(a.k::text)::text) as c from {source}" if inner.columns["k"] in "tq" else "select 2", False),
            (f"select a.k, (with w as (select {i} as n from {inner.name} y{where}) select count(*) from w) as c from {source}", False),
        ))  # fmt: skip

    def common_tables(self) -> Query:
        """WITH in subqueries, and queries that read others several times."""
        first, second = self.some_table(), self.some_table()
        a = self.where((("y", first),), 1)
        b = self.where((("z", second),), 1)
        i, j = self.value((("y", first),), "i", 0), self.value((("z", second),), "i", 0)
        how = self.pick("", "materialized ", "not materialized ")
        head = f"with a as {how}(select y.k, {i} as n from {first.name} y{a})"
        two = f"{head}, b as (select z.k, {j} as n from {second.name} z{b})"
        same = first.columns["k"] == second.columns["k"]
        return Query(self.made(
            lambda: f"{head} select count(*), (select max(n) from a), (select count(*) from a where n > 2) from a",
            lambda: f"{head} select x.k, y.n from a x join a y on x.k = y.k", lambda: f"{head} select k, n from a where n = (select max(n) from a)",
            lambda: f"{head} select n, count(*) from a group by n union all select -1, count(*) from a",
            lambda: f"{two} select a.k, a.n, b.n from a {self.pick('join', 'left join', 'full join')} b on a.k = b.k" if same else f"{two} select count(*), (select count(*) from b) from a",
            lambda: f"{two} select n from a {self.pick('intersect', 'except', 'union')} select n from b",
            lambda: f"{head}, c as (select k, count(*) as m from a group by k) select m, count(*) from c group by m",
            lambda: f"{head} select a.k, count(*) over (partition by a.k) as c from a where exists (select 1 from a a2 where a2.n = a.n)",
            lambda: f"select z.n, count(*) from ({head} select n from a where n is not null) z group by z.n",
            lambda: f"{head} select max(k::text) from a",
        ))  # fmt: skip

    def walk(self) -> Query:
        """WITH RECURSIVE with SEARCH, CYCLE, and without tables."""
        table = self.some_table()
        i = next((name for name, kind in table.columns.items() if kind == "i" and name != "k"), "")
        key = f"where y.k = {self.constant(table.columns['k'])}" if self.odds(0.5) else ""
        return Query(self.made(
            lambda: f"with recursive r(n) as (select 1 union all select n + 1 from r where n < {self.pick(3, 5)}) select r.n, count(y.k) from r left join {table.name} y on {f'y.{i} = r.n' if i else 'true'} group by r.n",
            lambda: "with recursive r(n, m) as (select 1, 1 union all select n + 1, n * 2 from r where n < 5) search depth first by n set o select n, m from r order by o",
            lambda: "with recursive r(n) as (select 1 union all select (n % 3) + 1 from r) cycle n set c using p select n, c from r",
            lambda: f"with recursive r(n) as (select {f'y.{i}::int8' if i else '1::int8'} from {table.name} y {key} union select n - 1 from r where n > 0 and n < 20) select count(*), max(n) from r",
            lambda: f"with recursive r(k, n) as (select y.k, 1 from {table.name} y {key} union all select r.k, n + 1 from r where n < 3) select n, count(*) from r group by n",
        ))  # fmt: skip

    # --- locks -------------------------------------------------------------------------------------------------------

    def locked(self) -> Query:
        """Rows that are locked."""
        table = self.some_table()
        scope: Scope = (("a", table),)
        how = self.pick(
            "for update",
            "for no key update",
            "for share",
            "for key share",
            "for update nowait",
            "for share skip locked",
            "for update of a",
        )
        where = (
            self.pick(f" where a.k = {quote(self._drawn(table.columns['k']))}", "")
            if self.odds(0.5)
            else self.where(scope, 1)
        )
        shown = self.value(scope, self.kind_in(scope), 0)
        if self.odds(0.3):
            return Query(f"select a.k, {shown} as c from {table.name} a{where} order by 1, 2 {how}", ordered=True)
        if self.odds(0.3):
            other = self.alike(table)
            return Query(f"select a.k, {shown} as c from {table.name} a join {other.name} b on a.k = b.k{where} {how}")
        return Query(f"select a.k, {shown} as c from {table.name} a{where} {how}")
