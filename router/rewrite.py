"""Text for shards: the original, cut and spliced at token positions.

Decides where clauses begin and end in the text; what to put there is the planners' business. Nothing is ever printed
from a tree: literals, comments and spelling stay as the client wrote them. Every spliced text is parsed again and
compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from router.statement import Parsed, Token

OPEN = frozenset({"ASCII_40", "ASCII_91"})
CLOSE = frozenset({"ASCII_41", "ASCII_93"})
_COMMA = "ASCII_44"
_NAMES_FOLLOW = frozenset({"AS", "ASCII_46"})


@dataclass(frozen=True, slots=True)
class CutValues:
    """INSERT ... VALUES in pieces: ``head + ", ".join(rows) + tail`` says the same as the original."""

    head: str
    rows: tuple[str, ...]
    tail: str


def spliced(text: str, splices: Iterable[tuple[int, int, str]]) -> str:
    """Return the text with other pieces put in the places from one character to another, which do not overlap."""
    pieces: list[str] = []
    at = 0
    for start, end, new in sorted(splices):
        pieces += (text[at:start], new)
        at = end
    return "".join([*pieces, text[at:]])


def uncovered(splices: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return those whose place no later one covers; what is put between two characters stays."""
    order = sorted(range(len(splices)), key=lambda at: (splices[at][0], -splices[at][1], -at))
    found, around = [], -1  # the latest place, from the outside in, in which others may lie
    for at in order:
        start, end, _ = splices[at]
        if start < end and around > at and splices[around][1] >= end:
            continue
        if start < end:
            around = at
        found.append(splices[at])
    return found


def group_end(tokens: list[Token], start: int) -> int | None:
    """Return the index of the token that closes the parenthesis at ``start``."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].name in OPEN:
            depth += 1
        elif tokens[index].name in CLOSE:
            depth -= 1
            if depth == 0:
                return index
    return None


def outside_brackets(tokens: list[Token], start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Yield the indexes of the tokens that stand in no bracket opened behind ``start``; brackets are not among them.

    A bracket that closes one opened before ``start`` ends it and is yielded last.
    """
    depth = 0
    for index in range(start, len(tokens) if stop is None else stop):
        name = tokens[index].name
        if name in OPEN:
            depth += 1
        elif name in CLOSE:
            depth -= 1
            if depth < 0:
                yield index
                return
        elif depth == 0:
            yield index


def at_top(tokens: list[Token], name: str, start: int = 0, stop: int | None = None) -> int | None:
    """Return the index of the first token of this name that stands in no bracket, as a word of the grammar."""
    places = outside_brackets(tokens, start, stop)
    return next((index for index in places if tokens[index].name == name and not is_name(tokens, index)), None)


def first_at_top(tokens: list[Token], names: Collection[str], start: int = 0) -> int:
    """Return the index of the first of these words that stands in no bracket, or the number of tokens."""
    places = outside_brackets(tokens, start)
    return next((index for index in places if tokens[index].name in names and not is_name(tokens, index)), len(tokens))


def is_name(tokens: list[Token], index: int) -> bool:
    """Whether a keyword begins no clause: a name (``AS from``, ``t.order``), part of IS DISTINCT FROM, DISTINCT ON."""
    before = tokens[index - 1].name if index else ""
    return before in _NAMES_FOLLOW or (before == "DISTINCT" and tokens[index].name in {"FROM", "ON"})


def list_items(tokens: list[Token], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the items between the commas of a list, each by its first token's index and that behind its last."""
    commas = [index for index in outside_brackets(tokens, start, stop) if tokens[index].name == _COMMA]
    return list(zip([start, *(comma + 1 for comma in commas)], [*commas, stop], strict=True))


def cut_values(parsed: Parsed) -> CutValues | None:
    """Cut the rows out of an INSERT's VALUES; None when the text is not that plain."""
    tokens, text = parsed.tokens, parsed.text
    index = at_top(tokens, "VALUES")
    if index is None or index + 1 >= len(tokens) or tokens[index + 1].name != "ASCII_40":
        return None
    rows: list[str] = []
    at = index + 1
    head = text[: tokens[at].start]
    while True:
        end = group_end(tokens, at)
        if end is None:
            return None
        rows.append(text[tokens[at].start : tokens[end].end])
        following = tokens[end + 1].name if end + 1 < len(tokens) else ""
        if following != _COMMA:
            return CutValues(head, tuple(rows), text[tokens[end].end : parsed.end])
        at = end + 2
        if at >= len(tokens) or tokens[at].name != "ASCII_40":
            return None


def split_list(parsed: Parsed, start: int, end: int) -> tuple[str, ...]:
    """Return the texts between the commas of a parenthesised list (token indexes of its parentheses)."""
    tokens, text = parsed.tokens, parsed.text
    return tuple(
        text[tokens[first - 1].end : tokens[behind].start].strip()
        for first, behind in list_items(tokens, start + 1, end)
    )
