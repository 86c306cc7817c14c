"""SELECT in all its forms: joins, groups, windows, set operations, WITH, VALUES, LIMIT."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oracle.generator.expressions import ORDERED, Expressions
from oracle.generator.schema import Relation

if TYPE_CHECKING:
    from oracle.generator.expressions import Scope

_KINDS = "iitnidbt"
_MOST_TABLES = 4


@dataclass(frozen=True, slots=True)
class Query:
    """A query. ``ordered``: ORDER BY fixes all; ``everything``: without its LIMIT, where any rows of that are right."""

    sql: str
    ordered: bool = False
    everything: str = ""


class Queries(Expressions):
    """Makes queries."""

    # --- FROM --------------------------------------------------------------------------------------------------------

    def source(self, tables: int = 0) -> tuple[str, Scope]:
        """Return a FROM clause and what it names."""
        count = tables or self.pick(1, 1, 1, 2, 2, 2, 3, 4)
        text, scope = self._first()
        wild = 0
        for _ in range(min(count, _MOST_TABLES) - 1):
            known, alias = self.relation(), self.alias()
            how = self.pick("join", "join", "join", "left join", "left join", "right join", "full join", "cross join")
            if wild and how == "cross join":
                how = "join"
            wider: Scope = ((alias, known), *scope)
            right = self._right(known, alias, scope, how)
            if how == "cross join":
                text, scope, wild = f"{text} cross join {right}", wider, 1
                continue
            equal = self._equal(scope, known, alias)
            parts = [equal] if equal else []
            if not equal and how != "full join" and self.odds(0.5):
                parts.append(f"{self.value(scope, 'i', 0)} = {self.value(((alias, known),), 'i', 0)}")
            if how != "full join" and self.odds(0.3):
                parts.append(self.condition(wider, 0))
            if how == "full join" and not parts:
                how = "left join"
            if not parts:
                wild = 1
            text, scope = f"{text} {how} {right} on {' and '.join(parts) or 'true'}", wider
        return text, scope

    def _first(self) -> tuple[str, Scope]:
        alias = self.alias()
        roll = self.chance.random()
        if roll < 0.03:
            known = Relation("", {"c0": "i"}, "c0")
            return f"generate_series({self.pick(0, 1)}, {self.pick(3, 6)}) {alias}(c0)", ((alias, known),)
        if roll < 0.06:
            rows = ", ".join(f"({self.constant('i', typed=True)}, {self.constant('t', typed=True)})" for _ in range(3))
            return f"(values {rows}) {alias}(c0, c1)", ((alias, Relation("", {"c0": "i", "c1": "t"}, "c0")),)
        known = self.relation()
        return f"{self._named(known)} {alias}", ((alias, known),)

    def _named(self, known: Relation) -> str:
        """Return the relation, or a subquery with its columns."""
        if self.odds(0.9):
            return known.name
        where = self.condition((("y", known),), 0)
        return f"(select * from {known.name} y where {where})"

    def _right(self, known: Relation, alias: str, scope: Scope, how: str) -> str:
        if how in {"join", "left join", "cross join"} and known.key and self.odds(0.07):
            inner = self.condition(((alias + "i", known), *scope), 0)
            names = list(known.columns)
            order = ", ".join(str(number + 1) for number in range(len(names)))
            shown = ", ".join(f"{alias}i.{name}" for name in names)
            return f"lateral (select {shown} from {known.name} {alias}i where {inner} order by {order} limit 2) {alias}"
        return f"{self._named(known)} {alias}"

    def _equal(self, scope: Scope, known: Relation, alias: str) -> str:
        """Return an equality of keys, or of a key and another column, if there is one."""
        if not known.key:
            return ""
        kind = known.columns[known.key]
        keys = [f"{other}.{one.key}" for other, one in scope if one.key and one.columns[one.key] == kind]
        if keys and self.odds(0.75):
            return f"{alias}.{known.key} = {self.pick(*keys)}"
        others = self.columns(scope, kind)
        if others and self.odds(0.8):
            return f"{alias}.{known.key} = {self.pick(*others)}"
        mine = [name for name, found in known.columns.items() if self.columns(scope, found)]
        if not mine:
            return ""
        name = self.pick(*mine)
        return f"{alias}.{name} = {self.pick(*self.columns(scope, known.columns[name]))}"

    def where(self, scope: Scope, depth: int = 2, share: float = 0.75) -> str:
        """Return a WHERE clause, mostly."""
        if not self.odds(share):
            return ""
        parts = [self.condition(scope, depth)]
        if self.odds(0.3):
            parts.append(self.condition(scope, 0))
        return f" where {' and '.join(parts)}"

    # --- SELECT ------------------------------------------------------------------------------------------------------

    def select(self, kinds: str, depth: int = 2) -> str:
        """Return a SELECT with columns of these kinds, named c0, c1 ..., in no order."""
        if self.odds(0.25) and set(kinds) <= set("itndb"):
            return self._grouped(kinds)
        source, scope = self.source()
        shown = [self.value(scope, kind) for kind in kinds]
        distinct = "distinct " if self.odds(0.2) else ""
        return f"select {distinct}{self.listed(shown)} from {source}{self.where(scope, depth)}"

    def _grouped(self, kinds: str) -> str:
        source, scope = self.source()
        by = self.value(scope, kinds[0])
        shown = [by]
        for kind in kinds[1:]:
            aggregate = {"i": "count(*)", "b": f"bool_or({self.value(scope, 'b')})"}.get(kind)
            shown.append(aggregate or f"{self.pick('min', 'max')}({self.value(scope, kind)})")
        return f"select {self.listed(shown)} from {source}{self.where(scope)} group by {by}"

    def plain(self) -> Query:
        """Columns of one row or another."""
        source, scope = self.source()
        if self.odds(0.12):
            alias, known = self.pick(*scope)
            star = ", ".join(f"{alias}.{name}" for name in known.columns)
            return Query(f"select {star} from {source}{self.where(scope)}")
        kinds = [self.kind_in(scope, "itnidbqmfzucajey") for _ in range(self.pick(1, 2, 3, 4))]
        shown = [self.value(scope, kind) for kind in kinds]
        if self.odds(0.25):
            shown.append(self.window(scope))
        distinct = "distinct " if self.odds(0.15) else ""
        return Query(f"select {distinct}{self.listed(shown)} from {source}{self.where(scope)}")

    def sorted(self) -> Query:
        """ORDER BY over all columns that are shown, and more; LIMIT in its forms."""
        source, scope = self.source()
        kinds = [self.kind_in(scope, ORDERED) for _ in range(self.pick(1, 2, 3))]
        shown = [self.value(scope, kind) for kind in kinds]
        where = self.where(scope)
        ways = ("", "", " desc", " nulls first", " desc nulls last")
        names = [self.pick(str(number + 1), f"c{number}") for number in range(len(shown))]
        order = [name + self.pick(*ways) for name in names]
        head = f"select {self.listed(shown)} from {source}{where}"
        if self.odds(0.2):
            hidden = self.value(scope, self.kind_in(scope, "itd"), 1)
            head = f"select {self.listed(shown)} from {source}{where}"
            return Query(f"{head} order by {hidden}{self.pick(*ways)}, {', '.join(order)}{self._limit()}", ordered=True)
        if self.odds(0.15):
            return Query(f"{head} order by {order[0]} fetch first {self.pick(1, 3, 5)} rows with ties")
        if self.odds(0.2):
            head = f"select distinct {self.listed(shown)} from {source}{where}"
        return Query(f"{head} order by {', '.join(order)}{self._limit()}", ordered=True)

    def _limit(self) -> str:
        roll = self.below(9)
        number = str(self.pick(0, 1, 2, 3, 5, 10))
        if self.values is not None and self.odds(0.5):
            number = self.parameter(number, self.pick(20, 20, 23))
        forms = ("", "", "", f" limit {number}", f" limit {number} offset {self.pick(1, 2, 4)}", f" offset {number}",
                 f" fetch first {number if number.isdigit() else f'({number})'} rows only", " limit all",
                 f" limit {number} + 1")  # fmt: skip
        return forms[roll]

    def unsorted_limit(self) -> Query:
        """LIMIT without an order: any rows are right."""
        source, scope = self.source()
        shown = [self.value(scope, self.kind_in(scope)) for _ in range(self.pick(1, 2))]
        whole = f"select {self.listed(shown)} from {source}{self.where(scope)}"
        return Query(f"{whole} limit {self.pick(1, 2, 5)}", everything=whole)

    def grouped(self) -> Query:
        """GROUP BY with all that belongs to it."""
        source, scope = self.source()
        by = [self.value(scope, self.kind_in(scope, "itnidbqmfzuce")) for _ in range(self.pick(0, 1, 1, 1, 2))]
        shown = [*by, *(self.aggregate(scope) for _ in range(self.pick(1, 1, 2, 3)))]
        where = self.where(scope)
        text = f"select {self.listed(shown)} from {source}{where}"
        if by:
            text += f" group by {self._groups(by)}"
        if self.odds(0.25):
            text += self.made(
                lambda: " having count(*) > 1", lambda: f" having max({self.value(scope, 'i')}) > 2",
                lambda: f" having count(distinct {self.value(scope, 't')}) >= 1",
                lambda: f" having min({self.value(scope, 'n')}) < 10 or count(*) = 1",
            )  # fmt: skip
        if by and self.odds(0.25):
            order = ", ".join(str(number + 1) for number in range(len(shown)))
            return Query(f"{text} order by {order}{self._limit()}", ordered=True)
        return Query(text)

    def _groups(self, by: list[str]) -> str:
        plain = ", ".join(by)
        if len(set(by)) < len(by) or any("$" in one for one in by):
            return plain
        ordinals = ", ".join(str(number + 1) for number in range(len(by)))
        return str(self.pick(plain, plain, plain, ordinals, f"rollup ({plain})", f"cube ({plain})",
                             f"grouping sets ({', '.join(f'({one})' for one in by)}, ())", f"distinct {plain}"))  # fmt: skip

    def distinct_on(self) -> Query:
        """DISTINCT ON, with an order over all columns."""
        source, scope = self.source()
        first = self.value(scope, self.kind_in(scope, "itdn"))
        if "$" in first:
            first = self.value(scope, "i", 0)
        rest = [self.value(scope, self.kind_in(scope, ORDERED)) for _ in range(self.pick(1, 2))]
        where = self.where(scope)
        order = ", ".join(f"{number + 1}{self.pick('', ' desc')}" for number in range(len(rest) + 1))
        return Query(f"select distinct on ({first}) {self.listed([first, *rest])} from {source}{where} "
                     f"order by {order}{self._limit()}", ordered=True)  # fmt: skip

    def set_operation(self) -> Query:
        """UNION and its kin, two or three of them."""
        kinds = "".join(self.pick(*"iitndb") for _ in range(self.pick(1, 2, 2, 3)))
        operations = ("union", "union all", "union all", "intersect", "except", "except all", "intersect all")
        text = self.select(kinds, 1)
        for _ in range(self.pick(1, 1, 1, 2)):
            text = f"{text} {self.pick(*operations)} {self.select(kinds, 1)}"
        if self.odds(0.1):
            text = f"({text}) {self.pick(*operations)} ({self.select(kinds, 1)})"
        if self.odds(0.4):
            order = ", ".join(f"{number + 1}{self.pick('', ' desc')}" for number in range(len(kinds)))
            return Query(f"{text} order by {order}{self._limit()}", ordered=True)
        return Query(text)

    def derived(self) -> Query:
        """A query over a query."""
        kinds = self.pick("t", "i", "d") + self.pick("i", "n")
        inner = self.select(kinds)
        return Query(self.made(
            lambda: f"select z.c0, count(*), {self.pick('sum', 'max')}(z.c1) from ({inner}) z group by z.c0",
            lambda: f"select count(*), count(z.c0), min(z.c1) from ({inner}) z",
            lambda: f"select z.c1, rank() over (order by z.c1, z.c0) from ({inner}) z",
            lambda: f"select z.* from ({inner}) z where z.c1 > {self.constant(kinds[1])}",
            lambda: f"select exists ({inner}), (select count(*) from ({self.select('i')}) y)",
            lambda: f"select array(select z.c1 from ({inner}) z order by 1)",
        ))  # fmt: skip

    def with_queries(self) -> Query:
        """WITH: one to three queries, read in any place."""
        parts = []
        for number in range(self.pick(1, 1, 2, 3)):
            kinds = self.pick("i", "it", "itn", "ti", "id")
            how = self.pick("", "", "", "materialized ", "not materialized ")
            parts.append(f"w{number} as {how}({self.select(kinds, 1)})")
            self.ctes.append(Relation(f"w{number}", {f"c{n}": kind for n, kind in enumerate(kinds)}, "c0"))
        query = self.made_query(self.plain, self.grouped, self.sorted, self.grouped, self.set_operation)
        self.ctes = []
        return Query(f"with {', '.join(parts)} {query.sql}", query.ordered)

    def recursive(self) -> Query:
        """WITH RECURSIVE: a walk of a few steps."""
        table = self.pick(*self.schema.tables)
        key = table.columns[table.key]
        where = self.where((("y", table),), 1)
        integers = [name for name, kind in table.columns.items() if kind == key and name != table.key]
        step = f"y.{self.pick(*integers)}" if integers else f"y.{table.key}"
        base = f"select y.{table.key} as c0, 0 as c1 from {table.name} y{where}"
        again = (
            f"select {step}, r.c1 + 1 from r join {table.name} y on y.{table.key} = r.c0 where r.c1 < {self.pick(1, 2)}"
        )
        if self.odds(0.3):
            base, again = (
                f"select {self.pick(0, 1)}::int8 as c0, 0 as c1",
                "select r.c0 + 1, r.c1 + 1 from r where r.c1 < 4",
            )
            key = "i"
        self.ctes = [Relation("r", {"c0": key, "c1": "i"}, "c0")]
        query = self.made_query(self.plain, self.grouped, self.sorted)
        self.ctes = []
        return Query(f"with recursive r(c0, c1) as ({base} union {again}) {query.sql}", query.ordered)

    def values_alone(self) -> Query:
        """VALUES and queries without any table."""
        return Query(self.made(
            lambda: f"values ({self.constant('i', typed=True)}, {self.constant('t', typed=True)}), (2, 'b')",
            lambda: f"select {self.constant('i', typed=True)} as a, {self.constant('d', typed=True)} as b",
            lambda: f"select {self.scalar((), 'i', 1)}, {self.scalar((), 't', 1)}",
            lambda: f"select * from (values (1), (2), (null)) v(a) where {self.pick('a > 1', 'a is null', 'a in (1, 5)')}",
            lambda: f"table {self.pick(*self.schema.tables).name}",
        ))  # fmt: skip

    def made_query(self, *makers: object) -> Query:
        """Return what one of the makers makes."""
        return self.pick(*makers)()  # type: ignore[no-any-return]

    def query(self) -> Query:
        """Return a whole query."""
        made = self.made_query(
            *[self.plain] * 5, *[self.sorted] * 5, *[self.grouped] * 5, *[self.set_operation] * 2, *[self.derived] * 2,
            *[self.with_queries] * 2, self.distinct_on, self.unsorted_limit, self.recursive, self.values_alone,
        )  # fmt: skip
        if made.sql.startswith("table "):
            return Query(self._visible(made.sql))
        return made

    def _visible(self, sql: str) -> str:
        """TABLE of a table whose columns all servers share."""
        name = sql.removeprefix("table ")
        table = next(one for one in self.schema.tables if one.name == name)
        return f"select {', '.join(table.columns)} from {name}" if table.hidden else sql
