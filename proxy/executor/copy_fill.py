"""Values in front of the rows of a COPY FROM, for columns that the client leaves out.

Pure. Decides how a value is written so that it is read back as it was, whatever delimiter, quote and NULL the client
has chosen, and what an error may show of a row that begins with such values. What they are is the session's business
(``Values``); which rows wait for them is known to the splitters.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from router.plan_copy import CopyFormat

_LENGTH = Struct(">i")
_NULL = b"\xff\xff\xff\xff"
_SHOWN = re.compile(r'^(COPY [^\n]*?, line \d+: ")(.*)("\Z)', re.DOTALL)
_COUNTS = re.compile(
    r"(row field count is |wrong number of fields in header line: got |header line field |expected )(\d+)"
)


class Values(Protocol):
    """Where the values of rows come from. ``parked``: not before the client has sent all its data.

    Then the home shard computes them on the transaction's own link, which COPY takes later.
    """

    parked: bool
    max_parked_bytes: int

    async def begin(self) -> None:
        """Compute what is the same in all rows."""

    async def rows(self, count: int) -> list[list[bytes | None]]:
        """Return the values of the next ``count`` rows."""

    def end(self) -> None:
        """Hear that no more are wanted."""


class Writer:
    """Writes the values of one row as what stands in front of it.

    ``columns``: how many values there are; ``encode`` puts a text in the encoding of the data.
    """

    def __init__(
        self, copy_format: CopyFormat, columns: int, names: Sequence[str], encode: Callable[[str], bytes] = str.encode
    ) -> None:
        self.columns = columns
        self._binary = copy_format.format == "binary"
        if self._binary:
            return
        self._names = [encode(name) for name in names]
        self._csv = copy_format.format == "csv"
        self._delimiter, self._null = copy_format.delimiter.encode(), encode(copy_format.null)
        quote, escape = copy_format.quote.encode(), copy_format.escape.encode()
        self._quote = quote
        special = {self._delimiter, b"\r", b"\n", *((quote, escape) if self._csv else (b"\\",))}
        self._special = re.compile(b"[" + b"".join(map(re.escape, sorted(special))) + b"]")
        self._inside = re.compile(b"[" + b"".join(map(re.escape, sorted({quote, escape}))) + b"]")
        self._escaped = escape.replace(b"\\", b"\\\\") + rb"\g<0>"
        taken = [self._null] if copy_format.default is None else [self._null, encode(copy_format.default)]
        self._taken = frozenset([*taken, b"", b"\\."])

    def header(self) -> bytes:
        """Return what stands in front of a header line."""
        return self.prefix(self._names)

    def nothing(self) -> bytes:
        """Return what stands in front of a binary tuple that is not whole."""
        return _NULL * self.columns

    def prefix(self, values: Sequence[bytes | None]) -> bytes:
        """Return the fields of one row's values, with a delimiter behind each."""
        if self._binary:
            return b"".join(_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values)
        field = self._csv_field if self._csv else self._text_field
        return b"".join(field(value) + self._delimiter for value in values)

    def _text_field(self, value: bytes | None) -> bytes:
        if value is None:
            return self._null
        written = self._special.sub(_escaped, value)
        if written and written in self._taken:
            return b"\\x%02x" % value[0] + self._special.sub(_escaped, value[1:])
        return written

    def _csv_field(self, value: bytes | None) -> bytes:
        if value is None:
            return self._null
        if value not in self._taken and self._special.search(value) is None:
            return value
        return self._quote + self._inside.sub(self._escaped, value) + self._quote


def _escaped(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return {b"\n": b"\\n", b"\r": b"\\r"}.get(found, b"\\" + found)


def without_counts(message: str, columns: int) -> str:
    """Return an error's message that counts a row's fields, without those that were filled in."""
    return _COUNTS.sub(lambda match: match[1] + str(max(int(match[2]) - columns, 0)), message)


def shown(context: str, skip: re.Pattern[str]) -> str:
    """Return an error's CONTEXT with the client's part of the row that it shows."""
    match = _SHOWN.match(context)
    if match is None:
        return context
    rest = skip.match(match[2])
    return f"{match[1]}{match[2][rest.end() :]}{match[3]}" if rest is not None else match[1].removesuffix(': "')


def prefix_pattern(copy_format: CopyFormat, columns: int) -> re.Pattern[str]:
    """Return what finds the filled-in fields at the start of a row."""
    delimiter = re.escape(copy_format.delimiter)
    if copy_format.format == "csv":
        quote, escape = re.escape(copy_format.quote), re.escape(copy_format.escape)
        field = f"(?:{quote}(?:{escape}[{quote}{escape}]|[^{quote}])*{quote}|[^{delimiter}{quote}]*)"
    else:
        field = rf"(?:\\.|[^\\{delimiter}])*"
    return re.compile(f"(?:{field}{delimiter}){{{columns}}}", re.DOTALL)
