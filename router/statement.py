"""The only parser: text in, one :class:`Parsed` per statement out.

Decides how a message splits into statements and where things stand in the text. libpg_query's JSON tree gives places in
bytes of the message; everything that leaves this file counts characters of the statement's own text. Leaves to others
what a statement means. A text that does not parse raises SyntaxFailure: a real server may know better (by Parse,
never Execute).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from pglast.parser import ParseError, parse_sql_json, scan

from router.errors import SyntaxFailure, refusal
from router.tree import Node, unwrap, walk

if TYPE_CHECKING:
    from collections.abc import Sequence


class Token(NamedTuple):
    """A lexical token; ``end`` is exclusive, both in characters of the statement's text."""

    start: int
    end: int
    name: str


_COMMENTS: Final = frozenset({"SQL_COMMENT", "C_COMMENT"})
_NOT_A_STATEMENT: Final[tuple[str, Node]] = ("", {})


class Parsed:
    """One statement: its text, where that begins in the message (characters), and its tree."""

    def __init__(self, text: str, offset: int, node: Node, byte_base: int) -> None:
        self.text = text
        self.offset = offset
        self.kind, self.body = unwrap(node) if node else _NOT_A_STATEMENT
        self._byte_base = byte_base

    @classmethod
    def inside(cls, outer: Parsed, kind: str, body: Node) -> Parsed:
        """Return a statement that stands inside another (EXPLAIN, DECLARE): places still count in the outer text."""
        return cls(outer.text, outer.offset, {kind: body}, outer._byte_base)

    @cached_property
    def _encoded(self) -> bytes | None:
        return None if self.text.isascii() else self.text.encode()

    def place(self, location: int) -> int:
        """Return the character index in ``text`` of a byte offset from the tree."""
        at = location - self._byte_base
        return at if self._encoded is None else len(self._encoded[:at].decode())

    def position(self, location: int | None) -> int | None:
        """Return a client's error position (1-based characters of the message) of a tree's byte offset."""
        if location is None or location < 0:
            return None
        return self.offset + self.place(location) + 1

    @cached_property
    def tokens(self) -> list[Token]:
        """Tokens without comments."""
        found = scan(self.text)
        return [Token(item.start, item.end + 1, item.name) for item in found if item.name not in _COMMENTS]

    @cached_property
    def comments(self) -> list[str]:
        """The comments, with their marks."""
        return [self.text[item.start : item.end + 1] for item in scan(self.text) if item.name in _COMMENTS]

    @cached_property
    def _starts(self) -> list[int]:
        return [token.start for token in self.tokens]

    def token_at(self, character: int) -> int:
        """Return the index of the first token that starts at ``character`` or later."""
        return bisect_left(self._starts, character)

    @cached_property
    def end(self) -> int:
        """Where the last token ends that is not a closing semicolon."""
        for token in reversed(self.tokens):
            if token.name != "ASCII_59":
                return token.end
        return len(self.text)

    @cached_property
    def nodes(self) -> list[tuple[str, Node]]:
        """Every node of the tree, as :func:`router.tree.walk` yields them."""
        return list(walk({self.kind: self.body}))

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of node that occur."""
        return frozenset([kind for kind, _ in self.nodes])

    @cached_property
    def parameters(self) -> int:
        """The highest ``$n``."""
        return max([body.get("number", 0) for kind, body in self.nodes if kind == "ParamRef"], default=0)


def parse(text: str) -> tuple[Parsed, ...]:
    """Parse a message's text; raises SyntaxFailure with a 1-based position in characters, Refused if it is too deep."""
    try:
        tree = json.loads(parse_sql_json(text))
    except ParseError as error:
        place = error.args[1] if len(error.args) > 1 else None
        raise SyntaxFailure(str(error.args[0]), place + 1 if isinstance(place, int) else None) from error
    except UnicodeEncodeError as error:
        raise SyntaxFailure("the text is not valid Unicode", None) from error
    except RecursionError as error:
        raise refusal("too-deep", sqlstate="54001") from error
    found = tree["stmts"]
    if len(found) == 1:
        return (Parsed(text, 0, found[0]["stmt"], 0),)
    return _cut(text, found)


def _cut(text: str, found: Sequence[Node]) -> tuple[Parsed, ...]:
    encoded = text.encode()
    parts = []
    for entry in found:
        start = entry.get("stmt_location", 0)
        stop = start + entry["stmt_len"] if entry.get("stmt_len") else len(encoded)
        raw = encoded[start:stop]
        blank = len(raw) - len(raw.lstrip())
        offset = len(encoded[: start + blank].decode())
        parts.append(Parsed(raw.strip().decode(), offset, entry["stmt"], start + blank))
    return tuple(parts)
