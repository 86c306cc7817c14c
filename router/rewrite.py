"""Text for shards: the original, cut and spliced at token positions.

Decides where clauses begin and end in the text; what to put there is the planners' business. Nothing is ever printed
from a tree: literals, comments and spelling stay as the client wrote them. Every spliced text is parsed again and
compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.statement import Parsed, Token

OPEN = frozenset({"ASCII_40", "ASCII_91"})
CLOSE = frozenset({"ASCII_41", "ASCII_93"})
_COMMA = "ASCII_44"


@dataclass(frozen=True, slots=True)
class CutValues:
    """INSERT ... VALUES in pieces: ``head + ", ".join(rows) + tail`` says the same as the original."""

    head: str
    rows: tuple[str, ...]
    tail: str


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


def cut_values(parsed: Parsed) -> CutValues | None:
    """Cut the rows out of an INSERT's VALUES; None when the text is not that plain."""
    tokens, text = parsed.tokens, parsed.text
    index = _first_at_top(tokens, "VALUES")
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


def _first_at_top(tokens: list[Token], name: str) -> int | None:
    depth = 0
    for index, token in enumerate(tokens):
        if token.name in OPEN:
            depth += 1
        elif token.name in CLOSE:
            depth -= 1
        elif depth == 0 and token.name == name:
            return index
    return None


def split_list(parsed: Parsed, start: int, end: int) -> tuple[str, ...]:
    """Return the texts between the commas of a parenthesised list (token indexes of its parentheses)."""
    tokens, text = parsed.tokens, parsed.text
    parts: list[str] = []
    depth, begin = 0, tokens[start].end
    for token in tokens[start + 1 : end]:
        if token.name in OPEN:
            depth += 1
        elif token.name in CLOSE:
            depth -= 1
        elif token.name == _COMMA and depth == 0:
            parts.append(text[begin : token.start].strip())
            begin = token.end
    parts.append(text[begin : tokens[end].start].strip())
    return tuple(parts)
