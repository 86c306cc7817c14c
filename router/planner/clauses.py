"""Where the clauses of a plain SELECT stand in its text.

Decides by tokens at parenthesis depth zero, and gives up (None) on any text that is not plain: in parentheses, a set
operation. The result of every rewrite is parsed again and compared by :func:`verified`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.errors import SyntaxFailure
from router.rewrite import group_end, is_name, list_items, outside_brackets
from router.statement import parse
from router.tree import same

if TYPE_CHECKING:
    from router.statement import Parsed
    from router.tree import Node

_CLAUSES: Final = {
    "FROM": "from", "WHERE": "where", "GROUP_P": "group", "HAVING": "having", "WINDOW": "window", "ORDER": "order",
    "LIMIT": "limit", "OFFSET": "limit", "FETCH": "limit", "FOR": "lock", "INTO": "into",
    "UNION": "set", "INTERSECT": "set", "EXCEPT": "set",
}  # fmt: skip
_SORT_WORDS: Final = frozenset({"ASC", "DESC", "NULLS_P", "NULLS_LA", "FIRST_P", "LAST_P"})


@dataclass(slots=True)
class Edit:
    """Put ``text`` in place of the characters from ``start`` to ``end``."""

    start: int
    end: int
    text: str


class Clauses:
    """The text of a SELECT in pieces. ``starts``: token index of each clause. ``stop``: index after the last token."""

    def __init__(self, parsed: Parsed, select: int, starts: dict[str, int], stop: int) -> None:
        self.parsed = parsed
        self.select = select
        self.starts = starts
        self.stop = stop

    @classmethod
    def of(cls, parsed: Parsed, body: Node) -> Clauses | None:
        """Read the clauses, None for a text that is not plain."""
        tokens = parsed.tokens
        stop = len(tokens)
        while stop and tokens[stop - 1].name == "ASCII_59":
            stop -= 1
        targets = body.get("targetList")
        if not targets:
            return None
        select: int | None = None
        starts: dict[str, int] = {}
        first_target = parsed.place(targets[0]["ResTarget"]["location"])
        for index in outside_brackets(tokens, 0, stop):
            token = tokens[index]
            if select is None:
                select = index if token.name == "SELECT" else None
                continue
            clause = _CLAUSES.get(token.name)
            if clause is None or clause in starts or token.start < first_target or is_name(parsed.tokens, index):
                continue
            starts[clause] = index
        if select is None or "set" in starts or "into" in starts:
            return None
        return cls(parsed, select, starts, stop)

    def _text(self, start: int, end: int) -> str:
        """Return the text of tokens ``start`` to ``end`` (exclusive)."""
        tokens = self.parsed.tokens
        return self.parsed.text[tokens[start].start : tokens[end - 1].end]

    @property
    def targets_end(self) -> int:
        """Token index behind the target list."""
        return min(self.starts.values(), default=self.stop)

    def target_tokens(self, targets: list[Node]) -> list[tuple[int, int]]:
        """Return the token ranges of the items of the target list, aliases included."""
        starts = [self.parsed.token_at(self.parsed.place(item["ResTarget"]["location"])) for item in targets]
        ends = [start - 1 for start in starts[1:]] + [self.targets_end]
        return list(zip(starts, ends, strict=True))

    def expression(self, target: Node, place: tuple[int, int]) -> str:
        """Return the text of a target without its alias."""
        start, end = place
        if "name" in target["ResTarget"]:
            end -= 1
            if self.parsed.tokens[end - 1].name == "AS":
                end -= 1
        return self._text(start, end)

    def sort_texts(self) -> list[str]:
        """Return the expressions of ORDER BY without their directions."""
        start = self.starts["order"] + 2
        end = min((at for at in self.starts.values() if at > start - 2), default=self.stop)
        pieces: list[str] = []
        tokens = self.parsed.tokens
        for first, behind in list_items(tokens, start, end):
            last = behind
            while last > first + 1 and tokens[last - 1].name in _SORT_WORDS:
                last -= 1
            pieces.append(self._text(first, last))
        return pieces

    def append_targets(self, texts: list[str]) -> Edit:
        """Put more items behind the target list, under names of ours: ORDER BY and GROUP BY must not mean them."""
        at = self.parsed.tokens[self.targets_end - 1].end
        return Edit(at, at, "".join(f', {text} AS "pgchorus_{number}"' for number, text in enumerate(texts, 1)))

    def cut_from(self, clause: str) -> Edit | None:
        """Cut everything from a clause to the end."""
        starts = [self.starts[name] for name in (clause, "limit") if name in self.starts]
        if not starts:
            return None
        return Edit(self.parsed.tokens[min(starts)].start, self.parsed.end, "")

    def replace_limit(self, text: str) -> Edit | None:
        """Put ``text`` in place of LIMIT, OFFSET and FETCH; None when something follows them."""
        if self.starts.get("lock", -1) > self.starts["limit"]:
            return None
        return Edit(self.parsed.tokens[self.starts["limit"]].start, self.parsed.end, text)

    def cut(self, clause: str) -> Edit | None:
        """Cut one clause; None when it is not there."""
        start = self.starts.get(clause)
        if start is None:
            return None
        end = min((at for at in self.starts.values() if at > start), default=self.stop)
        return Edit(self.parsed.tokens[start].start, self.parsed.tokens[end - 1].end, "")

    def call(self, location: int) -> tuple[int, int, int] | None:
        """Return token indexes of a call at a place: its start, its parenthesis, and behind it with its FILTER."""
        tokens = self.parsed.tokens
        start = opening = self.parsed.token_at(self.parsed.place(location))
        while opening < self.stop and tokens[opening].name != "ASCII_40":
            opening += 1
        end = group_end(tokens, opening)
        if end is None:
            return None
        if end + 1 < self.stop and tokens[end + 1].name == "FILTER":
            end = group_end(tokens, end + 2)
        return None if end is None else (start, opening, end + 1)

    def renamed_call(self, place: tuple[int, int, int], name: str) -> str:
        """Return the text of a call with another function's name."""
        tokens = self.parsed.tokens
        return name + self.parsed.text[tokens[place[1]].start : tokens[place[2] - 1].end]


def apply(text: str, edits: list[Edit]) -> str:
    """Make all edits; they do not overlap."""
    for edit in sorted(edits, key=lambda item: item.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def verified(
    parsed: Parsed, text: str, added: int, changed: frozenset[int] = frozenset(), gone: str | None = None
) -> bool:
    """Parse a rewritten SELECT again: all is as it was, but for ``added`` targets and those at ``changed`` places.

    ``gone``: the field of a clause that is not there any more. LIMIT, ORDER BY and OFFSET are not compared.
    """
    try:
        found = parse(text)
    except SyntaxFailure:
        return False
    if len(found) != 1 or found[0].kind != parsed.kind:
        return False
    old, new = parsed.body, found[0].body
    before, after = old.get("targetList", []), new.get("targetList", [])
    if len(after) != len(before) + added:
        return False
    if any(not same(one, other) for i, (one, other) in enumerate(zip(before, after, strict=False)) if i not in changed):
        return False
    fixed = ("fromClause", "whereClause", "groupClause", "havingClause", "windowClause", "distinctClause", "withClause",
             "lockingClause", "valuesLists", "op")  # fmt: skip
    return all(same(None if field == gone else old.get(field), new.get(field)) for field in fixed)
