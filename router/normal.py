"""A statement's text without its values: for logs, statistics and traces, never for planning.

Constants become ``$n`` behind the parameters that the text has already, comments and superfluous blanks go, a list of
constants becomes its first, several rows of VALUES become one. So texts that differ in their values alone are one, and
no value is shown to anybody who reads what this returns: where the text cannot be read with certainty, the rest of it
is cut off.

Pure but for what it remembers. Costs about as much as a tenth of planning; whoever can keeps the result.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Of a text that is longer only the beginning is read.
READ_CHARACTERS: Final = 10_000
#: And so much is shown at most.
SHOWN_CHARACTERS: Final = 2_000
CUT: Final = "..."
_TOKEN: Final = re.compile(
    r"""
      (?P<blank>(?:\s+|--[^\n]*\n?)+)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<word>[^\W\d][\w$]*|\$\d+)
    | (?P<number>0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?)
    | (?P<unsure>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
#: Stands for a constant until all have been found: no text that a client can send has it.
_HOLE: Final = "\0"
_SIGN: Final = re.compile(
    r"(?:^|[(,=<>+\-*/%|]|\b(?:select|and|or|then|else|limit|offset|by|set)) ?[-+]$", re.IGNORECASE
)
_LIST: Final = re.compile("\\( ?\0 ?(?:, ?\0 ?)+\\)")
_LISTED: Final = re.compile(r"\bin ?$", re.IGNORECASE)
_MANY_DIGITS: Final = 6
_ROWS: Final = re.compile(r"(\bvalues ?\([^()]*\))(?: ?, ?\([^()]*\))+", re.IGNORECASE)
#: Where a word is a value: SET of a setting that somebody has made up; those of Postgres take names and switches.
_SET: Final = re.compile(
    r"""((?:^|;)\ ?(?:alter\b[^;]*?\ )?set\ (?:(?:session|local)\ )?[\w$"]+\ ?\.\ ?[\w$".]+\ ?(?:=|\bto\b))([^;]*)""",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r'"(?:[^"]|"")*"|[^\W\d][\w$]*')
_PARAMETER: Final = re.compile(r"\$(\d+)")


class _Ahead:
    """What was found before it is asked for, by what is read of a text and whether there is more of it; bounded."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, bool], str] = {}
        self._left = _AHEAD_CHARACTERS

    def put(self, text: str) -> None:
        key = _key(text)
        if key in self.found:
            return
        size = len(key[0]) + _ENTRY_CHARACTERS
        if size > self._left:
            self.found.clear()
            self._left = _AHEAD_CHARACTERS
        self._left -= size
        self.found[key] = _found(text)


_AHEAD_CHARACTERS: Final = 8_000_000
_ENTRY_CHARACTERS: Final = 200  # what an entry costs besides its text
_ahead: Final = _Ahead()


def normalise_ahead(texts: Iterable[str]) -> None:
    """Find texts without values where that holds nobody up, for ``normalised``; one other thread may do that."""
    for text in texts:
        _ahead.put(text)


def _key(text: str) -> tuple[str, bool]:
    return text[:READ_CHARACTERS], len(text) > READ_CHARACTERS


def normalised(text: str) -> str:
    """Return the text without values; never raises."""
    return _ahead.found.get(_key(text)) or _found(text)


def _found(text: str) -> str:
    read = text[:READ_CHARACTERS]
    parts, whole = _without_constants(read)
    found = "".join(parts).strip(" ;")
    found = _SET.sub(lambda match: match[1] + _WORD.sub(_hidden, match[2]), found)
    found = _ROWS.sub(r"\1, " + CUT, found)
    found = _LIST.sub(lambda match: _shortened(found, match), found)
    taken = max((int(number) for number in _PARAMETER.findall(found) if len(number) < _MANY_DIGITS), default=0)
    pieces = found.split(_HOLE)
    shown = pieces[0] + "".join(f"${taken + number}{piece}" for number, piece in enumerate(pieces[1:], 1))
    if whole and len(read) == len(text) and len(shown) <= SHOWN_CHARACTERS:
        return shown
    return shown[:SHOWN_CHARACTERS].rstrip() + CUT


def _hidden(word: re.Match[str]) -> str:
    return word[0] if word[0].lower() == "default" else _HOLE


def _shortened(found: str, match: re.Match[str]) -> str:
    """A list behind IN becomes its first constant; arguments of a function stay as they are."""
    return f"({_HOLE}, {CUT})" if _LISTED.search(found[max(0, match.start() - 8) : match.start()]) else match[0]


def _without_constants(text: str) -> tuple[list[str], bool]:  # noqa: C901 - one branch for each kind of token
    """Return the pieces of a text with a hole for each constant, and whether it could be read to its end."""
    parts: list[str] = []
    at, end = 0, len(text)
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            return parts, False
        kind, piece = match.lastgroup, match[0]
        at = match.end()
        if kind == "blank":
            _add_blank(parts)
        elif kind == "comment":
            at = comment_end(text, at)
            _add_blank(parts)
        elif kind == "dollar":
            closing = text.find(piece, at)
            parts.append(_HOLE)
            if closing < 0:
                return parts, False
            at = closing + len(piece)
        elif kind == "string" and "\\" in piece:
            # It may end elsewhere than it seems to (standard_conforming_strings).
            parts.append(_HOLE)
            return parts, False
        elif kind in {"string", "escaped"}:
            parts.append(_HOLE)
        elif kind == "number":
            if parts and parts[-1] in {"-", "+"} and _SIGN.search("".join(parts[-4:])):
                parts.pop()
            parts.append(_HOLE)
        elif kind == "unsure":
            parts.append(_HOLE)
            return parts, False
        else:
            parts.append(piece)
    return parts, True


def _add_blank(parts: list[str]) -> None:
    if parts and parts[-1] != " ":
        parts.append(" ")


def comment_end(text: str, at: int) -> int:
    """Return the place behind a comment that has begun before ``at``: in Postgres they nest."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
