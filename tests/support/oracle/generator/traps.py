"""Queries in which a router may take one thing for another: names that hide others, odd limits and orders, key by detours."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.generator.queries import Query
from oracle.generator.rarer import Rarer

if TYPE_CHECKING:
    from collections.abc import Callable

    from oracle.generator.expressions import Scope


class Traps(Rarer):
    """Makes queries."""

    def rare_makers(self) -> list[Callable[[], Query]]:
        """Return what makes rarer queries, these as well."""
        return [
            *super().rare_makers(), self.hidden_columns, self.hidden_columns, self.swapped, self.hiding_tables, self.hiding_tables, self.odd_limits,
            self.odd_orders, self.odd_orders, self.of_constants, self.user_functions, self.user_functions, self.of_paths, self.top_of_each,
            self.united, self.missing_rows, self.missing_rows, self.round_about, self.round_about,
        ]  # fmt: skip

    def _column(self, table_columns: dict[str, str], among: str = "itnd") -> str:
        found = [name for name, kind in table_columns.items() if kind in among and name != "k"]
        return str(self.pick(*found)) if found else "k"

    # --- names -------------------------------------------------------------------------------------------------------

    def hidden_columns(self) -> Query:
        """Output columns that are called like others."""
        table = self.some_table()
        one, two = self._column(table.columns), self._column(table.columns)
        where = self.where((("a", table),), 0)
        source = f"{table.name} a{where}"
        return Query(*self.pick(
            (f"select {one} as {two}, k as x1 from {source} order by {two} nulls first, x1", one == two),
            (f"select a.{one} as {two}, a.k as x1 from {source} order by a.{two}, {two}, x1", True),
            (f"select a.{one} as k, count(*) from {source} group by k", False) if table.columns[one] in "itnd" and one == "k" else (f"select a.k as {one}, count(*) from {source} group by {one}, a.k", False),
            (f"select k as {one}, {one} as k from {source} order by 1, 2", True),
            (f"select k, k, {one} as k from {source}", False),
            (f"select {one} as k from {source} group by {one}", False),
            (f"select max(k::text) as k, {one} as x1 from {source} group by {one} order by k, 2", True),
            (f"select distinct {one} as k from {source} order by k", True),
            (f"select z.k from (select {one} as k, k as {one} from {source}) z where z.k is not null", False) if one != "k" else (f"select k from {source}", False),
            (f"select z.{one}, count(*) from (select k as {one} from {source}) z group by z.{one}", False),
            (f"select coalesce(a.{one}, null) as {one} from {source} order by {one} desc", True),
            (f"select {one} as a from {source} order by a", True),
        ))  # fmt: skip

    def swapped(self) -> Query:
        """Tables under each other's names."""
        one = self.some_table()
        two = self.alike(one)
        if one is two:
            return self.hidden_columns()
        scope: Scope = ((two.name, one), (one.name, two))
        source = f"{one.name} {two.name} {self.pick('join', 'left join')} {two.name} {one.name} on {one.name}.k = {two.name}.k"
        if self.odds(0.3):
            source = f"(select * from {one.name}) {two.name}, {two.name} {one.name}"
            return Query(
                f"select count(*), count({two.name}.{self._column(one.columns)}) from {source} where {one.name}.k = {two.name}.k"
            )
        return Query(
            f"select {one.name}.k as c0, {self.value(scope, self.kind_in(scope), 0)} as c1 from {source}{self.where(scope, 1)}"
        )

    def hiding_tables(self) -> Query:
        """WITH under the names of tables."""
        one = self.some_table()
        two = self.alike(one)
        i, j = self._column(one.columns), self._column(two.columns)
        where = self.where((("y", two),), 1)
        return Query(self.made(
            lambda: f"with {one.name} as (select y.k, y.{j} as n from {two.name} y{where}) select k, n from {one.name}",
            lambda: f"with {one.name} as (select k, {i} as n from {one.name}) select count(*), count(n) from {one.name} x",
            lambda: f"with {one.name} as (select y.k, y.{j} as n from {two.name} y{where}) select a.k, b.k from {one.name} a join public.{one.name} b on a.k = b.k",
            lambda: f"select (with {one.name} as (select 1 as k) select count(*) from {one.name}), (select count(*) from {one.name})",
            lambda: f"select k from {one.name} where k in (with {one.name} as (select y.k from {two.name} y{where}) select k from {one.name})",
            lambda: f"with a as (select k from {one.name}), b as (with a as (select y.k from {two.name} y{where}) select k from a) select (select count(*) from a), (select count(*) from b)",
            lambda: f"with a as (select k from {one.name}) select count(*) from (with a as (select y.k from {two.name} y{where}) select * from a) z join a on a.k = z.k",
            lambda: f"select {one.name}.k from public.{one.name} where public.{one.name}.k is not null",
        ))  # fmt: skip

    # --- limits, orders, constants -----------------------------------------------------------------------------------

    def odd_limits(self) -> Query:
        """LIMIT and OFFSET in odd forms, under an order of all columns."""
        table = self.some_table()
        names = ", ".join(table.columns)
        limit = self.pick("limit 1.5", "limit '2'", "limit null", "limit null offset null", "offset 2 limit 3", "offset 1 rows fetch next 2 rows only", "fetch first row only",
                          "limit 9223372036854775807", "limit 2::int2", "limit 1 + 1", "limit case when true then 3 end", "limit all offset 1", "limit (select 2)", "limit 3 offset '1'",
                          "limit least(3, 4)", "offset 1000000", "limit 0 offset 5", "offset 0.4", "limit 2.5::float8")  # fmt: skip
        where = self.where((("a", table),), 0)
        if self.odds(0.3):
            return Query(f"select count(*) from (select {names} from {table.name} a{where} order by {names} {limit}) z")
        return Query(f"select {names} from {table.name} a{where} order by {names} {limit}", ordered=True)

    def odd_orders(self) -> Query:
        """ORDER BY in odd forms; all columns come behind it."""
        source, scope = self.source(self.pick(1, 1, 2))
        whole = ", ".join(self.everything(scope))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        order = self.pick(f"{i} using <", f"{i} using > nulls first", f'{t} collate "C"', f'{t} collate "C" desc', f"-({i}) nulls last", f"({i}, {t})", f"row({t}, {i}) desc", "null", "'x'::text",
                          f"array[{i}]", f"{i} is null, {i} desc", f"lower({t}), {t}", f"coalesce({i}, 3)", f"case when {i} > 2 then 1 end", f"{t} = 'a', {i}", f"({i})::text", f"({i})::numeric / 7",
                          f"length({t}) desc, {t} desc", f"{i} + 1 desc nulls last, {i}", f"{self.value(scope, 'b', 0)}", f"{i}, {i} desc, 1")  # fmt: skip
        kinds = [self.kind_in(scope, "itnidbq") for _ in range(self.pick(1, 2))]
        shown = [self.value(scope, kind, 0) for kind in kinds]
        limit = self.pick("", "", " limit 3", " limit 2 offset 1", " offset 1")
        return Query(
            f"select {self.listed(shown)} from {source}{self.where(scope, 1)} order by {order}, {whole}{limit}",
            ordered=True,
        )

    def of_constants(self) -> Query:
        """Aggregates, groups and DISTINCT of constants."""
        source, scope = self.source(self.pick(1, 1, 2))
        where = self.where(scope, 1)
        return Query(self.made(
            lambda: f"select sum(1), count(1), max('x'), min(null::int4), count(null) from {source}{where}", lambda: f"select 'a' as c, count(*) from {source}{where} group by 'a'::text",
            lambda: f"select 1 + 1 as c, max({self.value(scope, 'i', 0)}) from {source}{where} group by 1", lambda: f"select distinct 1 as a, 'x' as b from {source}{where}",
            lambda: f"select true as c, count(*) from {source}{where} group by true having true", lambda: f"select 1 as c from {source}{where} having false",
            lambda: f"select count(*) + 1 as c, count(*)::text || 'x' as d, -count(*) as e, count(*) is null as f from {source}{where}", lambda: f"select coalesce(sum({self.value(scope, 'i', 0)}), 0) + count(*) as c from {source}{where}",
            lambda: f"select max({self.value(scope, 'i', 0)}) filter (where false), avg(2.5), array_agg(1), string_agg('x', '') from {source}{where}",
            lambda: f"select count(distinct 1), sum(distinct 2), bool_or(true), bool_and(null) from {source}{where}", lambda: f"select case when count(*) > 3 then 'many' else 'few' end as c from {source}{where}",
            lambda: f"select min(k) as c from (select 5 as k from {source}{where}) z where k = 5", lambda: f"select count(*), count(*) from {source}{where}", lambda: f"select count(*) as c from {source}{where} order by 1 limit 1",
            lambda: f"select (count(*) > 2)::int4 + (count(*) > 4)::int4 as c, round(avg({self.value(scope, 'i', 0)}), 2) as d from {source}{where}",
        ))  # fmt: skip

    # --- functions ---------------------------------------------------------------------------------------------------

    def user_functions(self) -> Query:
        """Aggregates, functions of sets, with defaults, of any number of arguments, and of rows, all of the schema's own."""
        source, scope = self.source(self.pick(1, 1, 2))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        where = self.where(scope, 1)
        by = self.key_like(scope, "i") if self.odds(0.5) else self.value(scope, self.kind_in(scope, "itd"), 0)
        return Query(self.made(
            lambda: f"select most({i}) from {source}{where}", lambda: f"select {by} as c, most({i}), joined({t} order by {t}) from {source}{where} group by 1",
            lambda: f"select most({i}) over (partition by {by}) as c from {source}{where}", lambda: f"select most(distinct {i}), count(*) from {source}{where}",
            lambda: f"select {i} as c, u.v from {source} cross join lateral up_to(least(abs({i}), 3)) u(v){where}", lambda: f"select up_to(2) as c, {i} as d from {source}{where}",
            lambda: f"select plus({i}) as c, plus({i}, 5) as d from {source}{where}", lambda: f"select any_of({i}, 2, 3) as c, any_of(variadic array[{i}, 1]) as d from {source}{where}",
            lambda: f"select (halves({t})).* from {source}{where}", lambda: f"select (halves({t})).first as c, count(*) from {source}{where} group by 1", lambda: f"select (most({i}) + count(*))::text as c from {source}{where}",
            lambda: f"select {i} as c from {source} where plus({i}) > 3 and any_of({i}, 0) is not null", lambda: f"select h.first, h.rest from {source} cross join lateral halves({t}) h{where}",
            lambda: f"select max(twice({i})), min(shout({t})) from {source}{where}", lambda: f"select shout({t}) as c, sum(twice({i})) from {source}{where} group by shout({t})",
        ))  # fmt: skip

    def of_paths(self) -> Query:
        """SQL/JSON functions."""
        source, scope = self.source(self.pick(1, 1, 2))
        i, t = self.value(scope, "i", 0), self.value(scope, "t", 0)
        document = f"jsonb_build_object('a', {i}, 'b', jsonb_build_array({t}, {i}))"
        where = self.where(scope, 1)
        return Query(self.made(
            lambda: f"select json_value({document}, '$.a' returning int8) as c, count(*) from {source}{where} group by 1", lambda: f"select json_query({document}, '$.b' with wrapper) as c from {source}{where}",
            lambda: f"select json_exists({document}, '$.a ? (@ > $x)' passing 2 as x) as c, count(*) from {source}{where} group by 1", lambda: f"select json_array({i}, {t} null on null returning jsonb) as c from {source}{where}",
            lambda: f"select json_object('k': {t}, 'v': {i} absent on null returning jsonb) as c from {source}{where}", lambda: f"select j.* from {source} cross join lateral json_table({document}, '$.b[*]' columns (o for ordinality, v text path '$')) j{where}",
            lambda: f"select json_objectagg(coalesce({t}, 'x') || {i}::text: 1 returning jsonb) filter (where {i} is not null) as c from {source}{where}", lambda: f"select json_arrayagg({i} order by {i} returning jsonb) as c from {source}{where}",
            lambda: f"select {t} as c, json_arrayagg({i} order by {i} returning jsonb) as d from {source}{where} group by 1", lambda: f"select json_scalar({i})::text as c, json_serialize(json({document}::text)) as d from {source}{where}",
            lambda: f"select {document} -> 'b' ->> 0 as c, {document} #>> '{{b,1}}' as d, {document} @? '$.a' as e from {source}{where}", lambda: f"select jsonb_path_query({document}, '$.b[*]') as c from {source}{where}",
        ))  # fmt: skip

    # --- keys by detours ---------------------------------------------------------------------------------------------

    def top_of_each(self) -> Query:
        """The first rows of each key, and what is counted over them."""
        table = self.some_table()
        names = ", ".join(table.columns)
        by = self.pick("k", "k", self._column(table.columns))
        numbered = f"select a.*, row_number() over (partition by {by} order by {names}) as place, count(*) over (partition by {by}) as n from {table.name} a{self.where((('a', table),), 0)}"
        shown = ", ".join(f"z.{name}" for name in table.columns)
        return Query(self.made(
            lambda: f"select {shown}, z.place from ({numbered}) z where z.place <= 2", lambda: f"select z.n, count(*) from ({numbered}) z where z.place = 1 group by z.n",
            lambda: f"with z as ({numbered}) select z.k, z.place from z where z.place = z.n", lambda: f"select count(*) from ({numbered}) z where z.n > 1",
            lambda: f"select distinct on (a.{by}) {names} from {table.name} a order by a.{by}, {names}",
            lambda: f"select max(n), min(n), sum(n) from (select {by}, count(*) as n from {table.name} group by {by}) z",
        ))  # fmt: skip

    def united(self) -> Query:
        """Unions of tables in FROM, joined and grouped by the key or not."""
        one = self.some_table()
        two, three = self.alike(one), self.alike(one)
        how = self.pick("union all", "union all", "union", "except", "intersect all")
        both = f"(select a.k, 1 as n from {one.name} a{self.where((('a', one),), 0)} {how} select b.k, 2 from {two.name} b)"
        key = self.constant(one.columns["k"])
        return Query(self.made(
            lambda: f"select u.k, sum(u.n), count(*) from {both} u group by u.k", lambda: f"select u.n, count(*) from {both} u group by u.n", lambda: f"select u.k, u.n from {both} u where u.k = {key}",
            lambda: f"select u.k, c.k from {both} u {self.pick('join', 'left join')} {three.name} c on c.k = u.k", lambda: f"select c.k from {three.name} c where c.k in (select u.k from {both} u)",
            lambda: f"select count(*) from {both} u, {both} w where u.k = w.k", lambda: f"select c.k, (select count(*) from {both} u where u.k = c.k) as n from {three.name} c",
            lambda: f"select u.k, row_number() over (partition by u.k order by u.n) as n from {both} u", lambda: f"select distinct u.k from {both} u",
        ))  # fmt: skip

    def missing_rows(self) -> Query:
        """Joins and subqueries that look for what is not there."""
        one = self.some_table()
        two = self.alike(one)
        i, j = self._column(one.columns), self._column(two.columns, one.columns.get(self._column(one.columns), "i"))
        near: Scope = (("b", two), ("a", one))
        condition = self.condition(near, 0)
        return Query(self.made(
            lambda: f"select a.k, a.{i} from {one.name} a left join {two.name} b on b.k = a.k where b.k is null", lambda: f"select a.k, b.k from {one.name} a full join {two.name} b on a.k = b.k where a.k is null or b.k is null",
            lambda: f"select a.k from {one.name} a left join {two.name} b on b.k = a.k and {condition} where b.{j} is null", lambda: f"select a.k, count(b.k) from {one.name} a left join {two.name} b on b.k = a.k and {condition} group by a.k",
            lambda: f"select count(*) from {one.name} a where not exists (select 1 from {two.name} b where b.k = a.k and {condition})", lambda: f"select a.k from {one.name} a where a.k not in (select b.k from {two.name} b where b.k is not null)",
            lambda: f"select a.k from {one.name} a where a.k <> all (select b.k from {two.name} b where {condition})", lambda: f"select a.k, b.k from {one.name} a left join {two.name} b on a.k = b.k and a.k = {self.constant(one.columns['k'])}",
            lambda: f"select a.k, b.k from {one.name} a left join {two.name} b on a.k = b.k and b.k = {self.constant(two.columns['k'])} where a.k = b.k or a.{i} is null",
            lambda: f"select a.k, b.k from {one.name} a right join {two.name} b on a.k = b.k and b.k in ({self.constant(two.columns['k'])}) where b.{j} is not null",
            lambda: f"select count(*) from {one.name} a left join (select b.k, max(b.{j}) as m from {two.name} b group by b.k) z on z.k = a.k where z.m is null", lambda: f"select a.k from {one.name} a where (select count(*) from {two.name} b where b.k = a.k) = 0",
        ))  # fmt: skip

    def round_about(self) -> Query:
        """Keys that are equal through other tables, subqueries and lists."""
        one = self.some_table()
        two, three = self.alike(one), self.alike(one)
        kind = one.columns["k"]
        key, other = self.constant(kind, typed=True), self.constant(kind, typed=True)
        i = self._column(one.columns)
        return Query(self.made(
            lambda: f"select a.{i}, c.k from {one.name} a, {two.name} b, {three.name} c where a.k = b.k and b.k = c.k and b.k = {key}", lambda: f"select a.k, b.k from {one.name} a join {two.name} b on a.k = {key} and b.k = {key}",
            lambda: f"select a.k, b.k from {one.name} a, {two.name} b where a.k = {key} and b.k = {other}", lambda: f"select a.k from {one.name} a join (select {key} as k) v on v.k = a.k",
            lambda: f"select a.k, v.n from {one.name} a join (values ({key}, 1), ({other}, 2)) v(k, n) on v.k = a.k", lambda: f"select a.k from {one.name} a join unnest(array[{key}, {other}]) v(k) using (k)",
            lambda: f"with v as (select {key} as k) select a.k, a.{i} from {one.name} a, v where a.k = v.k", lambda: f"select z.k, b.k from (select a.k from {one.name} a where a.k = {key}) z join {two.name} b on b.k = z.k",
            lambda: f"select z.k, b.k from (select a.k, count(*) as n from {one.name} a group by a.k) z join {two.name} b on b.k = z.k where z.k = {key}", lambda: f"select a.k from {one.name} a where a.k in (select b.k from {two.name} b where b.k in (select c.k from {three.name} c where c.k = {key}))",
            lambda: f"select a.k from {one.name} a where exists (select 1 from {two.name} b where b.k = a.k and exists (select 1 from {three.name} c where c.k = b.k)) and a.k <> {key}", lambda: f"select a.k, b.k from {one.name} a join {one.name} b on a.k = b.k and a.{i} = b.{i} where b.k is not null",
            lambda: f"select a.k from {one.name} a where a.k = (select max(b.k) from {two.name} b)" if kind in "itq" else f"select a.k from {one.name} a where a.k = {key}", lambda: f"select (select a.{i} from {one.name} a where a.k = {key} order by 1 limit 1) as c, (select count(*) from {two.name} b where b.k = {other}) as d",
            lambda: f"select a.k, b.k from {one.name} a cross join lateral (select y.k from {two.name} y where y.k = a.k order by 1 limit 1) b where a.k = {key}", lambda: f"select a.k from {one.name} a where a.k = {key} union all select b.k from {two.name} b where b.k = {other}",
            lambda: f"select a.k from {one.name} a where a.k = {key} and a.k in (select b.k from {two.name} b where b.k = {other})", lambda: f"select a.k, (a.k = {key}) as c from {one.name} a where (a.k = {key}) is not null",
        ))  # fmt: skip
