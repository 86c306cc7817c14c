"""Values, conditions, subqueries, aggregates and window functions over what a FROM clause names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.generator.literals import Literals, quote
from oracle.generator.schema import CASTS, MOODS, Relation, Schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    Scope = tuple[tuple[str, Relation], ...]

ORDERED = "itqnmfdzcey"  # kinds that min() and max() take
_SIGNS = ("=", "<", ">", "<=", ">=", "<>", "is distinct from", "is not distinct from")


class Expressions(Literals):
    """Pieces of statements. A scope is what may be named: pairs of alias and relation, the nearest first."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.schema = Schema(self)
        self.ctes: list[Relation] = []

    def relation(self) -> Relation:
        """Return something to read from: a table mostly, a CTE of this statement, a view."""
        if self.ctes and self.odds(0.45):
            return self.pick(*self.ctes)  # type: ignore[no-any-return]
        if self.schema.views and self.odds(0.12):
            return self.pick(*self.schema.views)  # type: ignore[no-any-return]
        return self.pick(*self.schema.tables[:7], *self.schema.tables)  # type: ignore[no-any-return]

    @staticmethod
    def columns(scope: Scope, kind: str) -> list[str]:
        """Return the columns of a kind."""
        return [f"{alias}.{name}" for alias, known in scope for name, found in known.columns.items() if found == kind]

    def kind_in(self, scope: Scope, among: str = "itnidb") -> str:
        """Return a kind that the scope has, mostly."""
        _, known = self.pick(*scope)
        kinds = [kind for kind in known.columns.values() if kind in among]
        return str(self.pick(*kinds)) if kinds and self.odds(0.85) else str(self.pick(*among))

    # --- values ------------------------------------------------------------------------------------------------------

    def value(self, scope: Scope, kind: str, depth: int = 1) -> str:
        """Return a value of a kind."""
        known = self.columns(scope, kind)
        roll = self.chance.random()
        if known and (roll < 0.68 or depth <= 0):
            return str(self.pick(*known))
        if depth <= 0 or roll > 0.95 or (not known and self.odds(0.6)):
            return self.constant(kind, typed=True)
        return self._formula(scope, kind, depth - 1)

    def _formula(self, scope: Scope, kind: str, depth: int) -> str:
        if self.odds(0.4):
            return self._general(scope, kind, depth)
        first = self.value(scope, kind, depth)
        makers = {
            "i": (
                lambda: f"{first} + 1", lambda: f"({first}) % 3", lambda: f"abs({first})", lambda: f"-({first})",
                lambda: f"length({self.value(scope, 't', depth)})",
                lambda: f"({first}) + ({self.value(scope, 'i', depth)})",
                lambda: f"extract(day from {self.value(scope, 'd', depth)})::int8",
                lambda: f"coalesce(array_length({self.value(scope, 'a', depth)}, 1), 0)",
                lambda: f"({self.value(scope, 'b', depth)})::int4", lambda: f"sign({first})::int4",
            ),
            "t": (
                lambda: f"lower({first})", lambda: f"({first}) || '!'", lambda: f"left({first}, 1)",
                lambda: f"({self.value(scope, 'i', depth)})::text", lambda: f"replace({first}, 'a', 'b')",
                lambda: f"({self.value(scope, 'd', depth)})::text", lambda: f"rtrim({first})",
                lambda: f"concat({first}, '-', {self.value(scope, 'i', depth)})", lambda: f"({first})::varchar(2)",
                lambda: f"substring({first} from 1 for 2)", lambda: f"upper({first})", lambda: f"md5({first})",
            ),
            "n": (
                lambda: f"({first}) * 2", lambda: f"-({first})", lambda: f"({first}) + 0.50",
                lambda: f"round({first}, 1)", lambda: f"({first})::numeric(12,4)",
            ),
            "d": (lambda: f"({first}) + 1", lambda: f"({first}) - 3", lambda: f"({first} + interval '1 day')::date"),
            "b": (
                lambda: f"not ({first})", lambda: f"{self.value(scope, 'i', depth)} > 2",
                lambda: f"({first}) and {self.value(scope, 't', depth)} < 'b'", lambda: f"({first}) is true",
            ),
            "a": (lambda: f"({first}) || 4", lambda: f"array[({self.value(scope, 'i', depth)})::int4, 1]"),
            "j": (lambda: f"jsonb_build_object('k', {self.value(scope, 'i', depth)})", lambda: f"({first}) -> 'a'"),
            "z": (lambda: f"({first}) + interval '1 hour'", lambda: f"date_trunc('day', {first})"),
            "f": (lambda: f"({first}) * 2", lambda: f"({self.value(scope, 'i', depth)})::float8"),
            "q": (lambda: f"lower({first})", lambda: f"({first}) || 'z'"),
        }.get(kind)  # fmt: skip
        made = self.made(*makers) if makers else first
        return f"({made})" if kind == "b" else made

    def _general(self, scope: Scope, kind: str, depth: int) -> str:
        """Return what works for any kind."""
        first = self.value(scope, kind, depth)
        makers = [
            lambda: f"coalesce({first}, {self.value(scope, kind, 0)})",
            lambda: f"nullif({first}, {self.constant(kind, typed=True)})",
            lambda: f"case when {self.condition(scope, 0)} then {first} else {self.value(scope, kind, 0)} end",
            lambda: f"case when {self.condition(scope, 0)} then {first} end",
        ]
        if kind in ORDERED:
            makers += [
                lambda: f"{self.pick('greatest', 'least')}({first}, {self.value(scope, kind, 0)})",
                lambda: self.scalar(scope, kind, depth),
            ]
        return self.made(*makers)

    def scalar(self, scope: Scope, kind: str, depth: int) -> str:
        """Return a subquery with one row."""
        inner = self.relation()
        alias = self.alias()
        nearest: Scope = ((alias, inner),)
        both = (*nearest, *scope) if self.odds(0.6) else nearest
        where = self.correlated(inner, alias, scope, both, depth)
        function = self.pick("min", "max")
        if kind == "i" and self.odds(0.4):
            return f"(select count(*) from {inner.name} {alias}{where})"
        if self.odds(0.15):
            shown = self.value(nearest, kind, 0)
            return f"(select {shown} from {inner.name} {alias}{where} order by 1 limit 1)"
        return f"(select {function}({self.value(nearest, kind, 0)}) from {inner.name} {alias}{where})"

    # --- conditions --------------------------------------------------------------------------------------------------

    def correlated(self, inner: Relation, alias: str, outer: Scope, both: Scope, depth: int) -> str:
        """Return a WHERE for a subquery's relation."""
        parts = []
        if inner.key and self.odds(0.45):
            parts.append(f"{alias}.{inner.key} = {self.key_like(outer, inner.columns[inner.key])}")
        if self.odds(0.7):
            parts.append(self.condition(both, max(depth - 1, 0)))
        return f" where {' and '.join(parts)}" if parts else ""

    def key_like(self, scope: Scope, kind: str) -> str:
        """Return a key of a kind, or another value of it."""
        keys = [f"{alias}.{known.key}" for alias, known in scope if known.key and known.columns[known.key] == kind]
        return str(self.pick(*keys)) if keys else self.value(scope, kind, 0)

    def condition(self, scope: Scope, depth: int) -> str:  # noqa: PLR0911, C901 - a line for each form
        """Return a condition."""
        roll = self.below(20)
        if roll < 6:
            return self.key_condition(scope)
        if roll < 10:
            kind = self.kind_in(scope, "itnidbqmfzuc")
            left, right = self.value(scope, kind, 1), self.value(scope, kind, 1)
            if self.odds(0.5):
                right = self.constant(kind)
            return f"{left} {self.pick(*_SIGNS)} {right}"
        if roll == 10:
            return f"{self.value(scope, self.kind_in(scope, 'itnidbqmfzucajey'))} is {self.pick('', 'not ')}null"
        if roll == 11:
            return self._of_text(scope)
        if roll == 12:
            return self._several(scope)
        if roll == 13:
            return self._typed(scope)
        if depth <= 0:
            return f"{self.value(scope, 'i', 1)} {self.pick('<', '>', '<>')} {self.constant('i')}"
        if roll == 14:
            return f"({self.condition(scope, depth - 1)} {self.pick('and', 'or')} {self.condition(scope, depth - 1)})"
        if roll == 15:
            return f"not ({self.condition(scope, depth - 1)})"
        return self.subquery_condition(scope, depth)

    def key_condition(self, scope: Scope) -> str:
        """Return a condition on a key, as far as one is named."""
        keyed = [(alias, known) for alias, known in scope if known.key]
        if not keyed:
            return f"{self.value(scope, 'i', 0)} = {self.constant('i')}"
        alias, known = self.pick(*keyed)
        key, kind = f"{alias}.{known.key}", known.columns[known.key]
        other = next((name for name, found in known.columns.items() if found == "i" and name != known.key), None)
        makers = [
            lambda: f"{key} = {self.key_constant(kind)}",
            lambda: f"{key} = {self.key_constant(kind)}",
            lambda: f"{self.key_constant(kind)} = {key}",
            lambda: f"{key} in ({self.key_constant(kind)}, {self.key_constant(kind)})",
            lambda: f"{key} in ({self.constant(kind)}, {self.constant(kind)}, {self.constant(kind)})",
            lambda: f"{key} not in ({self.constant(kind)}, {self.constant(kind)})",
            lambda: f"{key} = any({self.array(kind)})",
            lambda: f"{key} <> all({self.array(kind)})",
            lambda: f"({key} = {self.constant(kind)} or {key} = {self.constant(kind)})",
            lambda: f"{key} is null",
            lambda: f"{key} between {self.constant(kind)} and {self.constant(kind)}",
            lambda: f"{key} <> {self.constant(kind)}",
            lambda: f"{key} is not distinct from {self.constant(kind)}",
            lambda: f"{key} > {self.constant(kind)}",
            lambda: self._cast_key(key, kind),
        ]
        if other is not None:
            makers += [
                lambda: f"({key}, {alias}.{other}) = ({self.constant(kind)}, {self.constant('i')})",
                lambda: (
                    f"({key}, {alias}.{other}) {self.pick('<', '>=')} ({self.constant(kind)}, {self.constant('i')})"
                ),
                lambda: (
                    f"({key}, {alias}.{other}) in (({self.constant(kind)}, {self.constant('i')}), "
                    f"({self.constant(kind)}, {self.constant('i')}))"
                ),
                lambda: f"({key} = {self.constant(kind)} and {alias}.{other} > {self.constant('i')})",
            ]
        return self.made(*makers)

    def _cast_key(self, key: str, kind: str) -> str:
        if kind == "i":
            return self.made(
                lambda: f"{key}::text = {quote(self._drawn('i'))}", lambda: f"{key}::numeric = {self._drawn('i')}",
                lambda: f"{key}::int8 = {self._drawn('i')}", lambda: f"{key} + 0 = {self._drawn('i')}",
                lambda: f"{key}::float8 = {self._drawn('i')}",
            )  # fmt: skip
        if kind in "tq":
            return self.made(
                lambda: f"{key}::varchar = {quote(self._drawn(kind))}", lambda: f"lower({key}) = 'a'",
                lambda: f'{key} = {quote(self._drawn(kind))} collate "C"', lambda: f"{key}::char(4) = 'a'::char(4)",
                lambda: f'{key} collate "C" < {quote(self._drawn(kind))}', lambda: f"{key} like 'a%'",
            )  # fmt: skip
        return f"{key}::text = {quote(self._drawn(kind))}"

    def _of_text(self, scope: Scope) -> str:
        text = self.value(scope, "t", 1)
        return self.made(
            lambda: f"{text} like {self.pick(quote('a%'), quote('%b'), quote('_'), quote(''))}",
            lambda: f"{text} not ilike 'A%'", lambda: f"{text} ~ '^[a-z]+$'", lambda: f"starts_with({text}, 'a')",
            lambda: f"{text} similar to '(a|b)%'", lambda: f"{text} in ('a', 'b', 'a ')",
            lambda: f"length({text}) between 1 and 2", lambda: f"{text} = any({self.array('t')})",
        )  # fmt: skip

    def _several(self, scope: Scope) -> str:
        """Compare two values of a row at once."""
        one, two = self.kind_in(scope, "itnd"), self.kind_in(scope, "itnd")
        left = f"({self.value(scope, one, 0)}, {self.value(scope, two, 0)})"
        right = f"({self.value(scope, one, 0)}, {self.constant(two, typed=True)})"
        return f"{left} {self.pick('=', '<', '>=', '<>', 'is distinct from')} {right}"

    def _typed(self, scope: Scope) -> str:
        """Return a condition of the rarer types."""
        makers = [lambda: f"{self.value(scope, 'b', 1)}", lambda: f"({self.value(scope, 'b', 1)}) is not true"]
        kinds = {kind for _, known in scope for kind in known.columns.values()}
        if "a" in kinds:
            makers += [lambda: f"{self.value(scope, 'a', 0)} @> array[1]",
                       lambda: f"1 = any({self.value(scope, 'a', 0)})"]  # fmt: skip
        if "j" in kinds:
            makers += [
                lambda: f"{self.value(scope, 'j', 0)} ? 'a'",
                lambda: f"{self.value(scope, 'j', 0)} ->> 'b' = 'x'",
            ]
        if "e" in kinds:
            makers += [lambda: f"{self.value(scope, 'e', 0)} >= {quote(self.pick(*MOODS))}"]
        return self.made(*makers)

    def subquery_condition(self, scope: Scope, depth: int) -> str:
        """Return a condition with a subquery."""
        inner = self.relation()
        alias = self.alias()
        nearest: Scope = ((alias, inner),)
        both = (*nearest, *scope) if self.odds(0.5) else nearest
        where = self.correlated(inner, alias, scope, both, depth)
        source = f"{inner.name} {alias}"
        kind = self.kind_in(scope, "itnd")
        makers = [
            lambda: f"{self.pick('', 'not ')}exists (select {self.pick('1', '*', alias + '.*')} from {source}{where})",
            lambda: (
                f"{self.value(scope, kind, 1)} {self.pick('in', 'in', 'not in')} "
                f"(select {self.value(nearest, kind, 0)} from {source}{where})"
            ),
            lambda: f"{self.value(scope, 'i', 0)} {self.pick('<', '>=', '=')} {self.scalar(scope, 'i', depth - 1)}",
            lambda: (
                f"{self.value(scope, kind, 0)} {self.pick('>', '<=', '=')} {self.pick('any', 'all')} "
                f"(select {self.value(nearest, kind, 0)} from {source}{where})"
            ),
        ]
        if inner.key:
            found = inner.columns[inner.key]
            makers.append(lambda: f"{self.key_like(scope, found)} in (select {alias}.{inner.key} from {source}{where})")
            makers.append(
                lambda: (
                    f"({self.key_like(scope, found)}, {self.value(scope, 'i', 0)}) in "
                    f"(select {alias}.{inner.key}, {self.value(nearest, 'i', 0)} from {source}{where})"
                )
            )
        return self.made(*makers)

    # --- aggregates and windows --------------------------------------------------------------------------------------

    def aggregate(self, scope: Scope) -> str:
        """Return an aggregate whose value the order of rows does not change."""
        i, t = self.value(scope, "i"), self.value(scope, "t")
        some = self.kind_in(scope, ORDERED)
        made = self.made(
            lambda: "count(*)", lambda: "count(*)", lambda: f"count({t})", lambda: f"sum({i})", lambda: f"avg({i})",
            lambda: f"sum({self.value(scope, 'n')})", lambda: f"avg({self.value(scope, 'n')})",
            lambda: f"{self.pick('min', 'max')}({self.value(scope, some)})",
            lambda: f"{self.pick('min', 'max')}({self.value(scope, some)})",
            lambda: f"{self.pick('bool_or', 'bool_and', 'every')}({self.value(scope, 'b')})",
            lambda: f"count(distinct {self.value(scope, some)})", lambda: f"sum(distinct {i})",
            lambda: f"string_agg({t}, ',' order by {t})", lambda: f"string_agg(distinct {t}, '')",
            lambda: f"array_agg(({i})::int8 order by {i})", lambda: f"array_agg(distinct ({i})::int4)",
            lambda: f"{self.pick('bit_and', 'bit_or', 'bit_xor')}({i})", lambda: f"var_pop({i})",
            lambda: f"stddev({self.value(scope, 'n')})", lambda: f"max({i}) - min({i})",
            lambda: f"jsonb_agg({t} order by {t})", lambda: f"count(distinct ({i}, {t}))",
            lambda: f"percentile_disc(0.5) within group (order by {i})",
            lambda: f"percentile_cont({self.pick('0.25', '0.5')}) within group (order by {i})",
            lambda: f"mode() within group (order by {t})", lambda: f"rank(3) within group (order by {i})",
            lambda: f"sum({self.value(scope, 'f')})", lambda: f"sum({self.value(scope, 'm')})",
        )  # fmt: skip
        if self.odds(0.15) and made.endswith(")") and not made.startswith(("max(", "min(")):
            made += f" filter (where {self.condition(scope, 0)})"
        return made

    def window(self, scope: Scope) -> str:
        """Return a window function whose value ties do not change."""
        part = self.key_like(scope, "i") if self.odds(0.6) else self.value(scope, self.kind_in(scope, "itdb"), 0)
        partition = f"partition by {part} " if self.odds(0.7) else ""
        kind = self.kind_in(scope, "itdn")
        order = f"order by {self.value(scope, kind, 0)}{self.pick('', ' desc', ' nulls first')}"
        whole = f"order by {', '.join(self.everything(scope))}"
        i = self.value(scope, "i", 0)
        return self.made(
            lambda: f"rank() over ({partition}{order})", lambda: f"dense_rank() over ({partition}{order})",
            lambda: f"count(*) over ({partition})", lambda: f"sum({i}) over ({partition}{order})",
            lambda: f"max({self.value(scope, kind, 0)}) over ({partition})",
            lambda: f"percent_rank() over ({partition}{order})",
            lambda: f"cume_dist() over ({partition}{order})",
            lambda: f"avg({i}) over ({partition}{order} groups between 1 preceding and current row)",
            lambda: f"row_number() over ({partition}{whole})", lambda: f"lag({i}) over ({partition}{whole})",
            lambda: f"ntile(3) over ({partition}{whole})", lambda: f"first_value({i}) over ({partition}{whole})",
            lambda: f"sum({i}) over ({partition}{whole} rows between 1 preceding and 1 following)",
            lambda: f"count(*) filter (where {self.condition(scope, 0)}) over ({partition}{order})",
        )  # fmt: skip

    @staticmethod
    def everything(scope: Scope) -> list[str]:
        """Return all columns that can be sorted, so that rows which tie are equal."""
        return [f"{alias}.{name}" for alias, known in scope for name in known.columns]

    @staticmethod
    def listed(items: Sequence[str]) -> str:
        """Return select items named c0, c1 ..."""
        return ", ".join(f"{item} as c{number}" for number, item in enumerate(items))

    @staticmethod
    def cast(kind: str) -> str:
        """Return a type's name for a cast."""
        return CASTS[kind]
