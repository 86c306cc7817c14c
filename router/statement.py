"""The only parser: text in, one :class:`Parsed` per statement out.

Decides how a message splits into statements and where things stand in the text. libpg_query's JSON tree gives places in
bytes of the message; everything that leaves this file counts characters of the statement's own text. Leaves to others
what a statement means. A text that does not parse raises SyntaxFailure: a real server may know better (by Parse,
never Execute).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from functools import cached_property
from itertools import accumulate
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
_LONG_TREE: Final = 1 << 16  # characters: what is read, or freed, in one piece without stopping others for long
_SCANNED_AT_ONCE: Final = 2048  # characters; a millisecond
_APART: Final = frozenset(" \t\n\r\f\v,()")  # stand between tokens, or within what ends with a mark of its own
_BEFORE_STRING: Final = _APART | {"="}  # a letter may say of what kind it is
_OVER: Final = re.compile(r"[ \t\n\r\f\v]*+(?:$|[^'/\- \t\n\r\f\v])")
_BLOCK: Final = 512  # bytes of which it is known how many characters begin in them
_CONTINUING: Final = bytes(range(0x80, 0xC0))  # of a character in UTF-8, all bytes but the first
_BEYOND: Final = re.compile(r"[^\x00-\x7f]+")
_TAG: Final = re.compile(r"\$([^$ \t\n\r\f\v]+)(?=\$)")
_MANY_NODES: Final = 4096
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
        if self._encoded is None or at < 0:
            return at
        block = min(at, len(self._encoded)) // _BLOCK
        return self._begun[block] + _characters(self._encoded[block * _BLOCK : at])

    @cached_property
    def _begun(self) -> list[int]:
        """How many characters begin before each block of the encoded text: places are many in a long text."""
        encoded = self._encoded or b""
        blocks = (encoded[start : start + _BLOCK] for start in range(0, len(encoded), _BLOCK))
        return list(accumulate(map(_characters, blocks), initial=0))

    def position(self, location: int | None) -> int | None:
        """Return a client's error position (1-based characters of the message) of a tree's byte offset."""
        if location is None or location < 0:
            return None
        return self.offset + self.place(location) + 1

    def __del__(self) -> None:
        """Free a long tree node by node, the outer ones first: all at once it would hold up other threads."""
        nodes: list[tuple[str, Node]] = self.__dict__.get("nodes", [])
        if len(nodes) > _MANY_NODES:
            inner_first = nodes[::-1]  # somebody may still be reading the other list
            del nodes
            self.__dict__.clear()
            while inner_first:
                inner_first.pop()

    @cached_property
    def tokens(self) -> list[Token]:
        """Tokens without comments."""
        return [token for token in scanned(self.text) if token.name not in _COMMENTS]

    @cached_property
    def comments(self) -> list[str]:
        """The comments, with their marks."""
        return [self.text[token.start : token.end] for token in scanned(self.text) if token.name in _COMMENTS]

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
        printed = parse_sql_json(text)
        tree = json.loads(printed, object_hook=_given if len(printed) > _LONG_TREE else None)
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


def scanned(text: str) -> list[Token]:
    """Return the tokens of a text, comments as well.

    The scanner counts characters from the beginning for each token of a text with letters beyond ASCII, and holds up
    other threads meanwhile: half a minute for a megabyte. So it is given another letter for each of them, which ends
    no token and begins no string either. What is a keyword then was none; two tags of dollar quotes might be one.
    """
    if text.isascii() or not all(map(str.isascii, _TAG.findall(text))):
        return [Token(start, end, name) for start, end, name, _ in _scanned(text)]
    plain = _BEYOND.sub(_letters, text)
    return [
        Token(start, end, name if kind == "NO_KEYWORD" or text[start:end].isascii() else "IDENT")
        for start, end, name, kind in _scanned(plain)
    ]


def _letters(beyond: re.Match[str]) -> str:
    """Return as many letters; that it is called lets other threads run."""
    return "z" * (beyond.end() - beyond.start())


def _scanned(text: str) -> list[tuple[int, int, str, str]]:
    """Return start, end, name and kind of each token; of a long text piece by piece, so that others may run.

    The scanner holds on to the interpreter until it is done. A piece that ends within a string, a quoted name or a
    comment is an error, and then a longer one is tried. What else it may cut in two (a number, an operator, the
    tag of a dollar quote) has no blank, comma or parenthesis in it: so the next piece begins with a token that
    stands behind one of these, and all before that are what they are in the whole text. The last one may be half of
    a comment's mark. Where a plain string ends is found here: pglast looks at each letter, with the interpreter held,
    thirty milliseconds for a mebibyte.
    """
    if not text.isascii():
        return _piece(text, 0)
    found: list[tuple[int, int, str, str]] = []
    start, size = 0, _SCANNED_AT_ONCE
    while len(text) - start > size:
        try:
            tokens = _piece(text[start : start + size], start)
        except ParseError as error:
            tokens = []
            at = error.args[1] if len(error.args) > 1 else None
            string = _string(text, start + at) if isinstance(at, int) else None
            if string is not None:
                found += [*_piece(text[start : string[0]], start), string]
                start, size = string[1], _SCANNED_AT_ONCE
                continue
        last = next((at for at in range(len(tokens) - 2, 0, -1) if _begins_anew(text, tokens[at])), 0)
        if not last:
            # Most strings are short, and finding that one has no end takes less than making tokens.
            size += _SCANNED_AT_ONCE // 8 + 1 if size < 2 * _SCANNED_AT_ONCE else size
            continue
        found += tokens[:last]
        start, size = tokens[last][0], _SCANNED_AT_ONCE
    return found + _piece(text[start:], start)


def _string(text: str, start: int) -> tuple[int, int, str, str] | None:
    """Return the token that a plain string is, if one begins there and is not said to go on in another line."""
    if text[start] != "'" or (start and text[start - 1] not in _BEFORE_STRING):
        return None
    end = text.find("'", start + 1)
    while text[end + 1 : end + 2] == "'" and end > 0:
        end = text.find("'", end + 2)
    if end < 0 or _OVER.match(text, end + 1) is None:
        return None
    return start, end + 1, "SCONST", "NO_KEYWORD"


def _begins_anew(text: str, token: tuple[int, int, str, str]) -> bool:
    """Whether all before a token is over. A string may go on behind a comment, in the next line."""
    return text[token[0] - 1] in _APART and token[2] not in _COMMENTS


def _piece(text: str, offset: int) -> list[tuple[int, int, str, str]]:
    return [(item.start + offset, item.end + 1 + offset, item.name, item.kind) for item in scan(text)]


def _given(node: Node) -> Node:
    """Return a node as it is. That it is called is what lets other threads run while a long tree is read."""
    return node


def _characters(encoded: bytes) -> int:
    """Return how many characters begin in a piece of UTF-8."""
    return len(encoded.translate(None, _CONTINUING))


def _cut(text: str, found: Sequence[Node]) -> tuple[Parsed, ...]:
    encoded = text.encode()
    parts = []
    known = offset = 0  # how many characters begin before a place that was looked at
    for entry in found:
        start = entry.get("stmt_location", 0)
        stop = start + entry["stmt_len"] if entry.get("stmt_len") else len(encoded)
        raw = encoded[start:stop]
        begins = start + len(raw) - len(raw.lstrip())
        offset += _characters(encoded[known:begins])
        known = begins
        parts.append(Parsed(raw.strip().decode(), offset, entry["stmt"], begins))
    return tuple(parts)
