"""Words that input functions of dates and times read off the clock: now, today, tomorrow, yesterday.

Decides which texts hold one, which types read them, and which words of the grammar are the clock itself. Each shard has
a clock of its own, and reads it when it likes: where several read such a word, they read different values, and one
Postgres would have read one.

Postgres takes such a text apart at everything that is no letter or digit, and does not care about case
(https://www.postgresql.org/docs/18/datatype-datetime.html#DATATYPE-DATETIME-SPECIAL-VALUES).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.relation import Column, UserType
    from router.statement import Parsed

WORDS: Final = (b"now", b"today", b"tomorrow", b"yesterday")
SCALARS: Final = {1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1266: "timetz"}
_SCALAR_NAMES: Final = frozenset(SCALARS.values())
_RANGES: Final = frozenset({"tsrange", "tstzrange", "daterange", "tsmultirange", "tstzmultirange", "datemultirange"})
_NAMES: Final = _SCALAR_NAMES | _RANGES
# Their arrays, ranges, multiranges, and arrays of these.
_OTHERS: Final = frozenset({1115, 1182, 1183, 1185, 1270, 3908, 3909, 3910, 3911, 3912, 3913, 4533, 4534, 4535, 6152,
                            6153, 6155})  # fmt: skip
_FIRST_OWN: Final = 16384
_KEYWORDS: Final = ("SVFOP_CURRENT_DATE", "SVFOP_CURRENT_TIME", "SVFOP_LOCALTIME")
_WORD: Final = re.compile(rb"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])")
_STRINGS: Final = frozenset({"SCONST", "USCONST"})
_SYNTAX: Final = b'"\\'  # what arrays, rows and ranges may have inside of a word


def is_keyword(value_function: Mapping[str, object]) -> bool:
    """Whether an SQLValueFunction reads the clock (CURRENT_DATE, LOCALTIME ...), and not the role or the schema."""
    return str(value_function.get("op", "")).startswith(_KEYWORDS)


def may_hold(data: bytes) -> bool:
    """Whether a word may be somewhere in a piece of data, quotes and backslashes in it left out; quick."""
    found = data.translate(None, _SYNTAX).lower()
    return any(word in found for word in WORDS)


def holds(value: bytes) -> bool:
    """Whether a value, of a type that reads words, may have one."""
    return _WORD.search(value.translate(None, _SYNTAX).lower()) is not None


def reads_words(column: Column, types: Mapping[int, UserType]) -> bool:
    """Whether values of a column are read by something that may know the words."""
    if column.type_schema == "pg_catalog":
        return is_reader(column.type_name)
    return oid_reads_words(column.base_type_oid or column.type_oid, types)


def is_reader(type_name: str) -> bool:
    """Whether a type of pg_catalog, by its name (``_date``: its array), knows the words."""
    return type_name.removeprefix("_") in _NAMES


def oid_reads_words(oid: int, types: Mapping[int, UserType]) -> bool:
    """Whether a type may know the words; of users' types only those that cannot hold a moment do not for certain."""
    if oid < _FIRST_OWN:
        return oid in SCALARS or oid in _OTHERS
    known = types.get(oid)
    if known is None:
        return True  # rows, arrays
    if known.kind == "d":
        return oid_reads_words(known.base_type_oid, types) if known.base_type_oid != oid else True
    return known.kind not in "be"


_DAYS: Final = {"today": "", "tomorrow": " + 1", "yesterday": " - 1"}
_CALENDAR: Final = frozenset({"date", "timestamp", "timestamptz"})


def expression(text: str, type_name: str, moment: str) -> str | None:
    """Return what a text that is one word means as a value of a type, by a moment's expression; None: something else.

    A cast to the type, or an assignment, must follow.
    """
    word = text.strip().lower()
    if word == "now" and type_name in _SCALAR_NAMES:
        return f"({moment}::pg_catalog.timestamptz)"
    if word in _DAYS and type_name in _CALENDAR:
        return f"({moment}::pg_catalog.timestamptz::pg_catalog.date{_DAYS[word]})"
    return None


_TEXT_WORD: Final = re.compile(r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)
_PLAIN: Final = re.compile(r"'(?:[^'\\]|'')*'")


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal with a word in it. ``start`` and ``end``: where in the text its inside is, between the quotes."""

    start: int
    end: int
    body: str

    @property
    def has_now(self) -> bool:
        """Whether one of the words is a moment, and not a day."""
        return any(word.lower() == "now" for word in _TEXT_WORD.findall(self.body))

    def without_word(self, other: str) -> str:
        """Return the inside with another word for the first."""
        return _TEXT_WORD.sub(other, self.body, count=1)

    def with_days(self, days: Mapping[str, str]) -> str:
        """Return the inside with days for the words."""
        return _TEXT_WORD.sub(lambda found: days[found[0].lower()], self.body)


def literals(parsed: Parsed) -> tuple[Literal, ...] | None:
    """Return the literals of a statement that hold words; None where one has a form whose inside nobody reads here."""
    found = []
    for token in parsed.tokens:
        if token.name not in _STRINGS:
            continue
        text = parsed.text[token.start : token.end]
        if not _TEXT_WORD.search(text) and _PLAIN.fullmatch(text):
            continue
        if not _PLAIN.fullmatch(text):
            return None
        found.append(Literal(token.start + 1, token.end - 1, text[1:-1]))
    return tuple(found)
