"""Whether two answers to one statement are the same, as far as Postgres fixes them.

Three verdicts: EQUAL, REFUSED (the proxy said 0A000 or 53400 where Postgres did not), DIFFERENT. Rows are compared as a
multiset, in order where ORDER BY stands at the top; marks of the case loosen that.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from router.errors import ANY_SHARDS, REFUSALS, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable

    from oracle.answers import Answer
    from oracle.corpus import Case

    Form = Callable[[bytes | None, tuple[object, ...]], object]

_FLOAT4, _FLOAT8, _NUMERIC = 700, 701, 1700
_SIGN = 0x80
_DECIMALS = re.compile(rb"\.(\d*?)0*(?!\d)|(?<![^\t,|\"])-0(?![^\t,|\"\n])")
_CHOOSING = re.compile(r"(?i)\b(?:group\s+by|distinct|union|intersect|except)\b")  # one of equal values stands for all
_OF_ROWS = {"21", "22", "23", "44"}  # a row that is met twice, data exceptions, constraints, WITH CHECK OPTION
_LOOKS = frozenset({_FLOAT4, _FLOAT8, 1186, 1700, 3802})
_REFUSING = {"0A000", "53400"}
SHOWN_ROWS = 6


class Kind(Enum):
    """What came of a comparison."""

    EQUAL = "equal"
    REFUSED = "refused"
    DIFFERENT = "DIFFERENT"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison's outcome; ``note``: the refusal's id, or what differs."""

    kind: Kind
    note: str = ""


EQUAL = Verdict(Kind.EQUAL)


def _pattern(message: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+\}", message)
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)


_LISTED = {**REFUSALS, **RUNNING, **ANY_SHARDS}
_PATTERNS = {name: _pattern(message) for name, (message, _) in _LISTED.items()}


def refusal_id(message: str) -> str:
    """Return the id of the refusal with this message; the longest text that fits wins."""
    found = [name for name, pattern in _PATTERNS.items() if pattern.fullmatch(message)]
    if not found:
        return f"not listed: {message}"
    return max(found, key=lambda name: len(_LISTED[name][0]))


def compare(  # noqa: PLR0911, C901 - one line for each way in which answers may be held to be the same
    case: Case, expected: Answer, got: Answer, everything: Answer | None = None
) -> Verdict:
    """Compare; ``everything`` is the oracle's answer without LIMIT, for cases marked `any limit`."""
    if got.failed or expected.failed:
        return _compare_errors(case, expected, got)
    if _columns(case, got) != _columns(case, expected):
        return Verdict(Kind.DIFFERENT, f"columns: expected {expected.columns}, got {got.columns}")
    if "count free" in case.marks:
        return EQUAL
    if got.tag != expected.tag:
        return Verdict(Kind.DIFFERENT, f"tag: expected {expected.tag}, got {got.tag}; {_rows(expected, got)}")
    if "values" in case.marks:
        return EQUAL if len(got.rows or ()) == len(expected.rows or ()) else _different(expected, got)
    if everything is not None:
        extra = Counter(got.rows or ()) - Counter(everything.rows or ())
        same = not extra and len(got.rows or ()) == len(expected.rows or ())
        return EQUAL if same else _different(expected, got)
    mine, theirs = expected.rows or [], got.rows or []
    if mine == theirs or _copied_alike(case, expected, got):
        return EQUAL
    if "float" in case.marks:
        return _compare_by(_round, case, expected, got)
    if "equal values" in case.marks and _compare_by(_canonical, case, expected, got) is EQUAL:
        return EQUAL
    if "alike" in case.marks:
        return _compare_by(_without_looks, case, expected, got)
    if case.ordered and "ties" not in case.marks:
        word = "order: " if Counter(mine) == Counter(theirs) else ""
        return Verdict(Kind.DIFFERENT, word + _rows(expected, got))
    return EQUAL if Counter(mine) == Counter(theirs) else _different(expected, got)


def _columns(case: Case, answer: Answer) -> object:
    if answer.columns is None or "modifiers free" not in case.marks:
        return answer.columns
    return [(name, kind, form) for name, kind, _, form in answer.columns]


def _compare_errors(case: Case, expected: Answer, got: Answer) -> Verdict:
    if got.sqlstate == expected.sqlstate:
        return EQUAL
    if "any row" in case.marks and {got.sqlstate[:2], expected.sqlstate[:2]} <= _OF_ROWS:
        return EQUAL
    if got.sqlstate in _REFUSING:
        return Verdict(Kind.REFUSED, refusal_id(got.message))
    if got.sqlstate == "42P01" and refusal_id(got.message) == "undefined-table" and expected.sqlstate == "42P01":
        return EQUAL
    if "error free" in case.marks and not (expected.failed and got.failed):
        return EQUAL
    wanted = f"error {expected.sqlstate} {expected.message}" if expected.failed else f"{expected.tag}"
    answered = f"error {got.sqlstate} {got.message} {got.detail}" if got.failed else f"{got.tag} {_some(got)}"
    return Verdict(Kind.DIFFERENT, f"expected {wanted}, got {answered}")


def _different(expected: Answer, got: Answer) -> Verdict:
    return Verdict(Kind.DIFFERENT, _rows(expected, got))


def _some(answer: Answer) -> str:
    rows = answer.rows or []
    return f"{len(rows)} rows {rows[:SHOWN_ROWS]}"


def _rows(expected: Answer, got: Answer) -> str:
    mine, theirs = expected.rows or [], got.rows or []
    missing = list((Counter(mine) - Counter(theirs)).elements())[:SHOWN_ROWS]
    extra = list((Counter(theirs) - Counter(mine)).elements())[:SHOWN_ROWS]
    if not missing and not extra:
        first = next((n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), 0)
        return (
            f"from row {first}: expected {mine[first : first + SHOWN_ROWS]}, got {theirs[first : first + SHOWN_ROWS]}"
        )
    return f"{len(mine)} rows expected, {len(theirs)} got; missing {missing}; extra {extra}"


def _compare_by(form: Form, case: Case, expected: Answer, got: Answer) -> Verdict:
    """Compare with every value in another form, in order or as multisets."""
    columns = expected.columns or ()
    mine, theirs = ([tuple(map(form, row, columns)) for row in answer.rows or []] for answer in (expected, got))
    if case.ordered and "ties" not in case.marks:
        return EQUAL if mine == theirs else _different(expected, got)
    return EQUAL if Counter(mine) == Counter(theirs) else _different(expected, got)


def _without_looks(value: bytes | None, column: tuple[object, ...]) -> object:
    """Return the value, or only that there is one where equal values may look different."""
    return value if column[1] not in _LOOKS or value is None else "some value"


def _canonical(value: bytes | None, column: tuple[object, ...]) -> object:
    """Return a number without what equal numbers may differ in: the scale of numeric, the sign of a float's zero."""
    kind, form = column[1], column[3]
    if value is None or kind not in (_FLOAT4, _FLOAT8, _NUMERIC):
        return value
    if kind == _NUMERIC:
        if form == 1:
            return value[:6] + value[8:]  # the number of decimals to show
        return value.rstrip(b"0").rstrip(b".") if b"." in value else value
    if form == 0:
        return b"0" if value == b"-0" else value
    return bytes(len(value)) if value[0] == _SIGN and not any(value[1:]) else value


def _copied_alike(case: Case, expected: Answer, got: Answer) -> bool:
    """Whether a COPY's lines are the same but for what equal numbers may differ in.

    Which of them comes first no ORDER BY says, and where rows are grouped, which of them stands for all.
    """
    if not got.columns or got.columns[0][0] != "copy out":
        return False
    mine, theirs = expected.rows or [], got.rows or []
    if not _CHOOSING.search(case.sql) and Counter(mine) != Counter(theirs):
        return False
    mine, theirs = _lines(mine), _lines(theirs)
    return mine == theirs if case.ordered and "ties" not in case.marks else Counter(mine) == Counter(theirs)


def _lines(rows: list[tuple[bytes | None, ...]]) -> list[tuple[bytes | None, ...]]:
    """Return the lines of a COPY with equal numbers looking alike."""

    def shorter(found: re.Match[bytes]) -> bytes:
        return b"0" if found[0] == b"-0" else b"." + found[1] if found[1] else b""

    return [tuple(None if line is None else _DECIMALS.sub(shorter, line) for line in row) for row in rows]


def _round(value: bytes | None, column: tuple[object, ...]) -> object:
    kind, form = column[1], column[3]
    if value is None or kind not in (_FLOAT4, _FLOAT8):
        return value
    if form == 1:
        (number,) = struct.unpack("!f" if kind == _FLOAT4 else "!d", value)
    else:
        number = float(value)
    if math.isnan(number):
        return "NaN"
    return f"{number + 0.0:.{5 if kind == _FLOAT4 else 10}g}"
