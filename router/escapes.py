r"""Texts of clients that have switched standard_conforming_strings off: written as everybody else would.

Then a backslash escapes in a plain string, too (``'it\'s; one string'``), and who reads the text otherwise than the
server takes strings for statements, and statements for strings. libpg_query knows the setting's default alone. So such
strings get their E, which means the same under any setting, before anything else is made of the text. As scan.l of
PostgreSQL 18 has it: strings go on behind a newline, comments nest, N'' is a word and a plain string.
"""

from __future__ import annotations

import re
from typing import Final

from router.normal import comment_end

_LETTER: Final = r"[A-Za-z_\x80-\U0010ffff]"
_WORD_END: Final = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]")
_GOES_ON: Final = r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*"
_ESCAPED: Final = rf"'(?:[^'\\]|\\.|'')*'(?:{_GOES_ON}'(?:[^'\\]|\\.|'')*')*"
_CONFORMING: Final = rf"'(?:[^']|'')*'(?:{_GOES_ON}'(?:[^']|'')*')*"
_BITS: Final = rf"'[^']*'(?:{_GOES_ON}'[^']*')*"


def _tokens(plain: str, unicode: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
      (?P<comment>/\*)
    | (?P<line>--[^\n\r]*)
    | (?P<unicode>{unicode})
    | (?P<other_string>[eE]{_ESCAPED}|[bBxX]{_BITS})
    | (?P<string>[nN]?(?P<plain>{plain}))
    | (?P<dollar>\$(?:{_LETTER}[A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>{_LETTER}[A-Za-z0-9_$\x80-\U0010ffff]*|[0-9]+)
    | (?P<rest>[^'"/$A-Za-z0-9_\x80-\U0010ffff-]+|[^'"])
    """,
        re.VERBOSE | re.DOTALL,
    )


_OFF: Final = _tokens(_ESCAPED, "[uU]&'")
_ON: Final = _tokens(_CONFORMING, rf"[uU]&{_CONFORMING}")


def may_switch(text: str) -> bool:
    """Whether a message of several statements may switch the setting, by which its rest is not read in Postgres."""
    return ";" in text and "\\" in text and "standard_conforming_strings" in text.lower()


def with_marks(text: str, *, escapes: bool = True) -> str:
    """Return the text with an E before each plain string that holds a backslash; never raises.

    ``escapes``: the setting is off. Else such a backslash is one, and is written as two.
    """
    if "\\" not in text:
        return text
    parts: list[str] = []
    tokens = _OFF if escapes else _ON
    at, end = 0, len(text)
    while at < end:
        match = tokens.match(text, at)
        if match is None:  # a quote that nothing closes, in our parser's eyes as well then: the server says so
            if text[at] == "'":
                parts.append(" E")
            break
        start, at = at, match.end()
        kind = match.lastgroup
        if kind == "unicode" and escapes:  # the server stops here, and so must our parser
            return "".join([*parts, match[0]])
        if kind == "comment":
            at = comment_end(text, at)
        elif kind == "dollar":
            closing = text.find(match[0], at)
            at = end if closing < 0 else closing + len(match[0])
        elif match["string"] is not None and "\\" in match[0]:
            parts.append(_mark(text, start))
            parts.append(match["plain"] if escapes else match["plain"].replace("\\", "\\\\"))
            start = at
        parts.append(text[start:at])
    parts.append(text[at:])
    return "".join(parts)


def _mark(text: str, start: int) -> str:
    if text[start] != "'":
        return "nchar E"
    return " E" if start and _WORD_END.match(text, start - 1) else "E"
