"""The types that a PL/pgSQL body declares: of variables, constants and cursors' parameters.

Our parser's tree leaves out those that are rows, and cannot read ``schema.type``, so they are read from tokens. Decides
what a declaration's type is called; ``table.column%TYPE`` and ``table%ROWTYPE`` count as the table's row type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pglast.parser import ParseError, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Parts = tuple[str, ...]

_WORD: Final = re.compile(r'"(?:[^"]|"")+"|[A-Za-z_\u0080-\U0010ffff][\w$]*')
_DOT, _SEMICOLON, _COMMA = "ASCII_46", "ASCII_59", "ASCII_44"


def declared_types(text: str) -> frozenset[Parts]:
    """Return the names of the types that a body declares; of a body that cannot be read, all names that stand in it."""
    try:
        tokens = [
            (item.name, text[item.start : item.end + 1]) for item in scan(text) if not item.name.endswith("COMMENT")
        ]
    except (ParseError, UnicodeEncodeError):
        return frozenset((_folded(word),) for word in _WORD.findall(text))
    found: set[Parts] = set()
    for at, (name, _) in enumerate(tokens):
        if name == "DECLARE":
            found.update(_section(tokens, at + 1))
    return frozenset(found)


def _section(tokens: Sequence[tuple[str, str]], at: int) -> Iterator[Parts]:
    """Yield the types of the declarations from ``at`` on, as far as BEGIN."""
    while at < len(tokens) and tokens[at][0] != "BEGIN_P":
        end = next((n for n in range(at, len(tokens)) if tokens[n][0] == _SEMICOLON), len(tokens))
        yield from _declaration(tokens[at:end])
        at = end + 1


def _declaration(tokens: Sequence[tuple[str, str]]) -> Iterator[Parts]:
    """Yield the types of one declaration: a name, and its type; of a cursor, those of its parameters."""
    words = [text.lower() for _, text in tokens]
    if "cursor" in words[1:4]:
        opens = words.index("cursor") + 1
        if words[opens : opens + 1] != ["("]:
            return
        starts = [opens, *(n for n in range(opens, len(tokens)) if tokens[n][0] == _COMMA)]
        closes = words.index(")", opens)
        for start in starts:
            if start < closes:
                yield from _type(tokens[start + 2 : closes])
        return
    yield from _type(tokens[2 if words[1:2] == ["constant"] else 1 :])


def _type(tokens: Sequence[tuple[str, str]]) -> Iterator[Parts]:
    """Yield the name that ``tokens`` begin with."""
    parts: list[str] = []
    at = 0
    while at < len(tokens) and _WORD.fullmatch(tokens[at][1]):
        parts.append(_folded(tokens[at][1]))
        at += 1
        if at == len(tokens) or tokens[at][0] != _DOT:
            break
        at += 1
    if not parts:
        return
    if [text.lower() for _, text in tokens[at : at + 2]] == ["%", "type"]:
        if len(parts) > 1:  # else it is a variable's
            yield tuple(parts[:-1])
        return
    yield tuple(parts)


def _folded(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()
