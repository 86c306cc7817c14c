"""The rows of an INSERT, with parameters for what no shard may compute itself.

Decides which values these are: those of sequences, since each shard has a copy that must not be touched; defaults and
calls that run at home only; a key that is computed; defaults that read the clock. See :mod:`router.planner.filling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router import clock_words
from router.cluster import Sharded
from router.effect import Runs
from router.errors import Refused
from router.keys import value_term
from router.plan_steps import Computed
from router.planner import dml
from router.rewrite import CLOSE, at_top, first_at_top, group_end, list_items, spliced
from router.statement import parse
from router.tree import constant, items, walk

if TYPE_CHECKING:
    from collections.abc import Collection

    from router.planner.context import Context
    from router.planner.filling import Values
    from router.planner.moving import Cut
    from router.relation import Column, Relation
    from router.statement import Parsed, Token
    from router.tree import Node

_NUMBERS: Final = frozenset({"string", "integer", "float"})  # cast and assignment read these alike
_NOT_SET: Final = "OVERRIDING_NOT_SET"
_PLAIN: Final = frozenset({"ParamRef", "A_Const"})
_OPAQUE: Final = frozenset({"SubLink", "ColumnRef", "SelectStmt", "A_Indirection"})


class Rows:
    """The values of an INSERT that no shard may compute: of a sharded table each has sequences of its own.

    Home computes what it stores, also of a reference table, but for the clock: that is the transaction's, and home may
    have come to that later.
    """

    def __init__(self, context: Context, filling: Values) -> None:
        self._context = context
        self._filling = filling
        self._node = context.body
        dml.check_target(context, context.body["relation"], context.parsed.kind)
        relation = context.relation(context.body["relation"])
        placement = context.placement(relation, context.body["relation"].get("location"))
        self.relation: Relation | None = relation if relation is not None and relation.is_table else None
        self._at_home = not isinstance(placement, Sharded)
        self._key = placement.key if isinstance(placement, Sharded) else ""
        self._overriding = self._node.get("override", _NOT_SET) != _NOT_SET
        self._defaults: dict[str, Computed | str | None] = {}

    def rewrite(self) -> None:
        """Collect the splices."""
        node, relation = self._node, self.relation
        query = node.get("selectStmt", {}).get("SelectStmt")
        if relation is None or any("indirection" in entry["ResTarget"] for entry in node.get("cols", ())):
            return
        if query is None:
            self._default_values(relation)
        elif "valuesLists" in query and not any(key in query for key in ("sortClause", "limitCount", "limitOffset")):
            self._values(relation, query)
        else:
            self._selected(relation, query)

    def _selected(self, relation: Relation, query: Node) -> None:
        """SELECT: defaults that read the clock become columns of it, behind its last."""
        from router.planner import moving  # noqa: PLC0415 - it takes what it leaves to the sequences from here

        context, node = self._context, self._node
        tokens, pieces = context.parsed.tokens, moving.cut(context.parsed, node)
        try:
            columns = moving.named_targets(context, relation, node, query)
        except Refused:
            return  # nobody knows how many there are
        if pieces is None or columns is None:
            return
        left_out = [column for column in relation.columns if column not in columns and not column.generated]
        clocked = {column.name: text for column in left_out if isinstance(text := self.default(column), str)}
        varies = any(context.effect(dml.default_value(column)).volatile for column in left_out)
        if not clocked or not self._behind_last(query, pieces, ", ".join(clocked.values()), varies=varies):
            return
        into_end = tokens[at_top(tokens, "INSERT") or 0].start + len(pieces.into.rstrip())
        names = ", ".join(map(_quoted, clocked))
        if "cols" in node:
            opening = next(at for at in range(len(tokens)) if tokens[at].start >= into_end)
            closing = tokens[group_end(tokens, opening) or opening].start
            self._filling.splice(closing, closing, f", {names}")
        else:
            before = ", ".join(_quoted(column.name) for column in columns)
            self._filling.splice(into_end, into_end, f" ({before}, {names})")

    def _behind_last(self, query: Node, pieces: Cut, added: str, *, varies: bool) -> bool:
        """Put columns behind the last one of a query; False where they do not fit. ``varies``: from row to row."""
        parsed = self._context.parsed
        tokens, first = parsed.tokens, parsed.token_at(pieces.start)
        select = at_top(tokens, "SELECT", first)
        if select is None and "withClause" not in query:  # in parentheses
            select = next((at for at in range(first, len(tokens)) if tokens[at].name == "SELECT"), None)
        is_select = "larg" not in query and "valuesLists" not in query
        if is_select and select is not None and tokens[select].start < pieces.end:
            if "targetList" not in query or ("distinctClause" in query and varies):
                return False
            end = _list_end(tokens, select)
            self._filling.splice(end, end, f", {added}")
            return True
        if "withClause" in query:
            return False
        # Operations of sets, TABLE, VALUES in an order: columns have types of their own, also where they are constants.
        self._filling.splice(pieces.start, pieces.start, f'SELECT "pgchorus".*, {added} FROM (')  # noqa: S608 - definitions
        self._filling.splice(pieces.end, pieces.end, ') AS "pgchorus"')
        return True

    def default(self, column: Column) -> Computed | str | None:
        """Return what fills a column that is left out: computed, an expression for the text, None: the shard's own."""
        if column.name not in self._defaults:
            self._defaults[column.name] = self._default(column)
        return self._defaults[column.name]

    def _default(self, column: Column) -> Computed | str | None:
        context = self._context
        if self._at_home:
            value = None if column.generated or column.identity else dml.default_value(column)
            return None if value is None or not context.effect(value).clock else self._clocked(column)
        if column.identity and column.sequence is not None:
            return Computed(nextval(column.sequence.schema, column.sequence.name))
        value = None if column.generated else dml.default_value(column)
        if value is None:
            return None
        effect = context.effect(value)
        is_key = column.name == self._key
        if effect.runs is Runs.HOME:
            return Computed(column.default, column.type_name if is_key else "")
        if is_key:
            known = value_term(context.reader, value, column.type_name, column.type_modifier)
            stays = known is not None or effect.runs is not Runs.ANYWHERE
            return None if stays else Computed(column.default, column.type_name)
        return self._clocked(column) if effect.clock else None

    def _clocked(self, column: Column) -> str | None:
        """Return a default with parameters for what reads the clock in it; None where nothing does in its text."""
        (parsed,) = parse(f"SELECT {column.default}")
        splices = self._filling.clock_splices(parsed, named=False)
        return spliced(parsed.text, splices).removeprefix("SELECT ") if splices else None

    def _default_values(self, relation: Relation) -> None:
        """DEFAULT VALUES: the columns to fill, the others as they are."""
        tokens = self._context.parsed.tokens
        found = {column.name: self.default(column) for column in relation.columns}
        wanted = {name: value for name, value in found.items() if value is not None}
        at = at_top(tokens, "DEFAULT")
        if not wanted or at is None:
            return
        row = self._row(wanted, relation)
        columns = ", ".join(map(_quoted, row))
        overriding = "OVERRIDING SYSTEM VALUE " if self._always(relation, row) else ""
        text = f"({columns}) {overriding}VALUES ({', '.join(row.values())})"
        self._filling.splice(tokens[at].start, tokens[at + 1].end, text)

    def _row(self, wanted: dict[str, Computed | str], relation: Relation) -> dict[str, str]:
        """Return the text for each column; values are computed in the order of the columns, as Postgres does."""
        computed = [c.name for c in relation.columns if c.name in wanted and isinstance(wanted[c.name], Computed)]
        values = [value for name in computed if isinstance(value := wanted[name], Computed)]
        texts = dict(zip(computed, self._filling.row(values) if values else [], strict=True))
        return {name: f"({value})" if isinstance(value, str) else texts[name] for name, value in wanted.items()}

    @staticmethod
    def _always(relation: Relation, names: Collection[str]) -> bool:
        return any(c.identity == "a" and c.name in names for c in relation.columns)

    def _values(self, relation: Relation, query: Node) -> None:
        """VALUES: parameters for DEFAULT, for what home computes, and for the columns that are left out."""
        rows = [items(row) for row in query["valuesLists"]]
        columns = self._targets(relation, rows)
        if columns is None:
            return
        user = self._node.get("override") == "OVERRIDING_USER_VALUE"
        left_out = [c for c in relation.columns if c not in columns and self.default(c) is not None]
        if not left_out and not user and self._all_stay(columns, rows):
            return
        places = _places(self._context.parsed, len(rows), len(rows[0]))
        if places is not None:
            self._in_places(relation, columns, left_out, rows, places, user=user)

    def _in_places(  # noqa: PLR0913 - the rows, and where they are
        self,
        relation: Relation,
        columns: list[Column],
        left_out: list[Column],
        rows: list[list[Node]],
        places: _Places,
        *,
        user: bool,
    ) -> None:
        replaced: set[str] = set()
        for row, (spans, closing) in zip(rows, places.rows, strict=True):
            wanted: dict[str, Computed | str] = {}
            for column, value, span in zip(columns, row, spans, strict=True):
                new = self._given(column, value, span, user=user)
                if new is not None:
                    wanted[column.name] = new
            wanted.update({column.name: self.default(column) or "" for column in left_out})
            texts = self._row(wanted, relation)
            replaced.update(wanted)
            for column, span in zip(columns, spans, strict=True):
                if column.name in texts:
                    self._filling.splice(*span, texts[column.name])
            if left_out:
                self._filling.splice(closing, closing, "".join(f", {texts[c.name]}" for c in left_out))
        self._column_list(columns, left_out, places)
        if user and replaced:
            self._filling.splice(*places.override, "SYSTEM")
        elif not self._overriding and self._always(relation, replaced):
            self._filling.splice(places.values, places.values, "OVERRIDING SYSTEM VALUE ")

    def _targets(self, relation: Relation, rows: list[list[Node]]) -> list[Column] | None:
        """Return the columns that the rows give; None when Postgres has something to say about them."""
        names = dml.columns_of(relation, self._node) or []
        width = len(rows[0])
        if (
            any(len(row) != width for row in rows)
            or width > len(names)
            or ("cols" in self._node and width < len(names))
        ):
            return None
        columns = [column for name in names[:width] if (column := relation.column(name)) is not None]
        always = [at for at, column in enumerate(columns) if column.identity == "a"]
        given = any("SetToDefault" not in row[at] for row in rows for at in always)
        return None if len(columns) < width or (given and not self._overriding) else columns

    def _all_stay(self, columns: list[Column], rows: list[list[Node]]) -> bool:
        """Whether all values are constants and parameters that stay as they are: most long INSERTs need no more."""
        if any(kind not in _PLAIN for row in rows for value in row for kind in value):
            return False
        moments = [at for at, column in enumerate(columns) if column.type_name in clock_words.SCALARS.values()]
        if any(self._filling.word(row[at], columns[at].type_name) is not None for row in rows for at in moments):
            return False
        key = next((at for at, column in enumerate(columns) if column.name == self._key), None)
        if key is None:
            return True
        reader, kind, modifier = self._context.reader, columns[key].type_name, columns[key].type_modifier
        return all(value_term(reader, row[key], kind, modifier) is not None for row in rows)

    def _column_list(self, columns: list[Column], left_out: list[Column], places: _Places) -> None:
        if not left_out:
            return
        names = ", ".join(_quoted(column.name) for column in left_out)
        if places.columns_end is not None:
            self._filling.splice(places.columns_end, places.columns_end, f", {names}")
        else:
            before = ", ".join(_quoted(column.name) for column in columns)
            self._filling.splice(places.before, places.before, f"({before}, {names}) ")

    def _given(self, column: Column, value: Node, span: tuple[int, int], *, user: bool) -> Computed | str | None:
        """Return what fills the place of a value that is written; None: it stays."""
        context = self._context
        if "SetToDefault" in value or (user and column.identity):
            return self.default(column)
        word = self._filling.word(value, column.type_name) if column.type_schema == "pg_catalog" else None
        if word is not None:
            return f"{word}::pg_catalog.{column.type_name}"
        if self._at_home or any(kind in _OPAQUE for kind, _ in walk(value)):
            return None
        text = context.parsed.text[span[0] : span[1]]
        if "FuncCall" in value or column.name == self._key:
            runs = context.effect(value).runs
            if runs is Runs.HOME:
                return Computed(text, column.type_name if column.name == self._key else "")
            if column.name == self._key and runs is Runs.ANYWHERE:
                known = value_term(context.reader, value, column.type_name, column.type_modifier)
                if known is None:
                    literal = constant(value)
                    cast = f"::pg_catalog.{_quoted(column.type_name)}" if literal and literal[0] in _NUMBERS else ""
                    return Computed(text + cast, column.type_name)
        return Computed(text) if context.effect(value).runs is Runs.HOME else None


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of an INSERT ... VALUES are: characters of its text. ``before``: where a column list goes."""

    rows: list[tuple[list[tuple[int, int]], int]]  # spans of the values, and the closing parenthesis
    columns_end: int | None
    before: int
    values: int
    override: tuple[int, int]


def _places(parsed: Parsed, rows: int, width: int) -> _Places | None:
    tokens = parsed.tokens
    values, into = at_top(tokens, "VALUES"), at_top(tokens, "INTO")
    if values is None or into is None:
        return None
    overriding = at_top(tokens, "OVERRIDING")
    first = values if overriding is None or overriding > values else overriding
    columns_end = None
    for at in range(into + 1, first):
        if tokens[at].name == "ASCII_40":
            end = group_end(tokens, at)
            columns_end = tokens[end].start if end is not None else None
            break
    found: list[tuple[list[tuple[int, int]], int]] = []
    at = values + 1
    while len(found) < rows:
        end = group_end(tokens, at) if at < len(tokens) and tokens[at].name == "ASCII_40" else None
        if end is None:
            return None
        spans = _spans(parsed, at, end)
        if len(spans) != width:
            return None
        found.append((spans, tokens[end].start))
        at = end + 2
    override = (tokens[first + 1].start, tokens[first + 1].end)
    return _Places(found, columns_end, tokens[first].start, tokens[values].start, override)


def _spans(parsed: Parsed, start: int, end: int) -> list[tuple[int, int]]:
    """Return where the items of a parenthesised list are."""
    tokens = parsed.tokens
    return [(tokens[first].start, tokens[behind - 1].end) for first, behind in list_items(tokens, start + 1, end)]


_ENDS_LIST: Final = frozenset(
    ["FROM", "WHERE", "GROUP_P", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "RETURNING", "ON",
     "ASCII_59"]
)  # fmt: skip


def _list_end(tokens: list[Token], select: int) -> int:
    """Return where the select list ends that begins behind a SELECT: at a clause, a parenthesis around it, the end."""
    return tokens[first_at_top(tokens, _ENDS_LIST | CLOSE, select + 1) - 1].end


def nextval(schema: str, name: str) -> str:
    """Return the call that takes a sequence's next value."""
    literal = f"{_quoted(schema)}.{_quoted(name)}".replace("'", "''")
    return f"pg_catalog.nextval('{literal}'::pg_catalog.regclass)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
