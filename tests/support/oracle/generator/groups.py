"""One schema and as many statements as wanted, in groups: a query alone, a change alone, a block of several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from oracle.corpus import Case
from oracle.generator.schema import HOME, Relation
from oracle.generator.written_views import WrittenViews

if TYPE_CHECKING:
    from oracle.generator.changes import Change
    from oracle.generator.queries import Query

_FREE = re.compile(r"\b(?:union|intersect|except|values|case|coalesce|greatest|least|nullif)\b")
_LOOKS = re.compile(
    r"\b(?:group by|distinct|union|intersect|except|min|max|limit|fetch|offset|over|order by|greatest|least|in|any"
    r"|within)\b"
)


@dataclass(frozen=True)
class Made(Case):
    """A generated statement; ``in_order``: ORDER BY at its top fixes all."""

    in_order: bool = False

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        """Whether rows are compared in order."""
        return self.in_order


class End(Enum):
    """What becomes of a group's changes."""

    NOTHING = "nothing"  # it has none, or rolls them back itself
    ASKED = "asked"  # the proxy is asked first: what it refuses must not happen anywhere
    COMMIT = "commit"  # everything must be equal before both commit


@dataclass(frozen=True, slots=True)
class Step:
    """One statement. ``counts``: a generated one, no look at a table; ``extra``: asked of the oracle for all rows."""

    case: Made
    mode: str = "simple"
    counts: bool = True
    extra: Made | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Statements that belong together."""

    steps: tuple[Step, ...]
    end: End = End.NOTHING


_BEGIN, _ROLLBACK, _COMMIT = "begin", "rollback", "commit"


class Generator(WrittenViews):
    """Everything that a seed makes: ``definitions`` and ``placements()`` first, then ``group()`` again and again."""

    def __init__(self, seed: int, modes: tuple[str, ...] = ("simple", "extended", "binary")) -> None:
        super().__init__(seed)
        self.modes = modes
        self.number = 0
        self._make_views()

    @property
    def definitions(self) -> list[str]:
        """The schema's statements and its rows'."""
        return self.schema.definitions

    def placements(self) -> dict[str, Any]:
        """Where the tables live."""
        return self.schema.placements()

    def _make_views(self) -> None:
        for number, table in enumerate(self.schema.tables[:2]):
            kept = {name: kind for name, kind in table.columns.items() if kind not in "mfaj"}
            where = self.condition(((table.name, table),), 0)
            columns = ", ".join(f"{table.name}.{name}" for name in kept)
            query = f"select {columns} from {table.name} where {where}"
            self.schema.add_view(Relation(f"v{number}", kept, "k"), query)
        kinds = self.pick("it", "ti", "in")
        known = Relation("v2", {f"c{n}": kind for n, kind in enumerate(kinds)}, "c0")
        # Views of tables of the home shard beside sharded ones are refused.
        views, tables = self.schema.views, self.schema.tables
        self.schema.views, self.schema.tables = [], [table for table in tables if table.place != HOME]
        query = self.select(kinds, 0)
        self.schema.views, self.schema.tables = views, tables
        self.schema.add_view(known, query)

    # --- groups ------------------------------------------------------------------------------------------------------

    def group(self) -> Group:
        """Return the next group."""
        roll = self.chance.random()
        if roll < 0.72:
            return Group((self._query(),))
        if roll < 0.79:
            return self._changed_alone()
        if roll < 0.83:
            return Group((self._mistake(),), End.ASKED)
        return self._block()

    def _draw_mode(self) -> str:
        mode = str(self.pick(*self.modes))
        self.values = None if mode == "simple" else []
        return mode

    def _case(self, sql: str, *, ordered: bool = False) -> Made:
        marks = {"equal values"} if _LOOKS.search(sql) else set()
        if _FREE.search(sql):
            marks.add("modifiers free")
        if sql.startswith(("insert", "update", "delete", "merge")):
            marks.add("any row")
        where = f"seed {self.seed}, statement {self.number}"
        return Made(where, sql, frozenset(marks), tuple(self.values or ()), in_order=ordered)

    def _query(self) -> Step:
        self.number += 1
        mode = self._draw_mode()
        query: Query = self.query()
        extra = self._case(query.everything) if query.everything else None
        return Step(self._case(query.sql, ordered=query.ordered), mode, extra=extra)

    def _mistake(self) -> Step:
        self.number += 1
        mode = self._draw_mode()
        self.values = None
        return Step(self._case(self.mistake()), mode)

    def _change(self) -> tuple[Step, Change]:
        self.number += 1
        mode = self._draw_mode()
        made = self.change()
        return Step(self._case(made.sql), mode), made

    def _control(self, sql: str) -> Step:
        self.values = None
        return Step(Made("", sql), counts=False)

    def _looks(self, change: Change) -> list[Step]:
        self.values = None
        return [
            Step(Made(f"seed {self.seed}, statement {self.number}, afterwards", self.look(table),
                      frozenset({"equal values"})), counts=False)
            for table in change.tables
        ]  # fmt: skip

    def _changed_alone(self) -> Group:
        """A change that is committed at once, if it is small; else in a block that is rolled back."""
        step, made = self._change()
        looks = self._looks(made)
        if made.small and self.odds(0.4):
            return Group((step, *looks), End.ASKED)
        return Group((self._control(_BEGIN), step, *looks, self._control(_ROLLBACK)))

    def _block(self) -> Group:
        begin = self.pick(_BEGIN, _BEGIN, _BEGIN, "begin isolation level repeatable read", "start transaction")
        steps = [self._control(begin)]
        small = True
        for number in range(self.pick(1, 2, 2, 3)):
            roll = self.chance.random()
            if roll < 0.25:
                step = self._query()
                if step.extra is None:  # what it may answer is asked outside of the block
                    steps.append(step)
                continue
            step, made = self._change()
            looks = self._looks(made)
            if roll < 0.45:
                steps += [self._control(f"savepoint s{number}"), step, *looks[:1]]
                if self.odds(0.3):
                    steps.append(self._mistake())
                steps += [self._control(f"rollback to s{number}"), *looks[:1]]
                continue
            if roll < 0.55:
                steps += [self._control(f"savepoint s{number}"), step, self._control(f"release s{number}"), *looks]
            else:
                steps += [step, *looks]
            small = small and made.small
        if self.odds(0.05):
            steps.append(self._mistake())
        if small and self.odds(0.4):
            return Group((*steps, self._control(_COMMIT)), End.COMMIT)
        return Group((*steps, self._control(_ROLLBACK)))
