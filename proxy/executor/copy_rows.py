r"""Cutting COPY FROM's data into rows and dealing them out, in text and CSV format.

Pure and incremental: data may be cut anywhere. Rows go on byte for byte as they came; only where a row ends and what
its key is gets looked at, by the rules of Postgres 18's copyfromparse.c as the manual gives them:

- text: a backslash takes the next byte out of play, also a newline or a delimiter; ``\.`` alone on a line ends the
  data;
- CSV: between quotes everything is data; ``\.`` is data too (it ends the data before Postgres 18);
- all rows end alike (LF, CR or CRLF, as the first one does); anything else is an error, in Postgres's words.

There are two roads. Blocks of whole lines without anything remarkable are cut by ``bytes.split`` and their integer keys
found by one regular expression; everything else is walked from one special byte to the next.

https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

from proxy.executor.copy_dealt import Folded
from proxy.executor.copy_key import integer_key_pattern
from proxy.executor.failure import CombineFailure
from router import clock_words
from router.errors import refusal
from router.sharding import INTEGER_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.executor.copy_dealt import Dealt
    from proxy.executor.copy_fill import Writer
    from proxy.executor.copy_key import KeyPlacer
    from router.plan_copy import CopyFormat

BAD_FORMAT = "22P04"
_LF, _CR, _CRLF = b"\n", b"\r", b"\r\n"
_COMPRESSED_SHARDS = 16  # up to here rows are dealt out by one C call for each shard
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.)|\Z)", re.DOTALL)
_NUMBERED = re.compile(rb"\\[0-7x]")  # bytes by their number
_BYTE = 0xFF
_NOT_ALONE = "end-of-copy marker is not alone on its line"
_OTHER_END = "end-of-copy marker does not match previous newline style"


@dataclass(frozen=True, slots=True)
class Dealing:
    """What rows are cut and dealt out by: the key is in ``column``; no ``placer``: every row goes to every shard.

    With a ``writer`` rows wait for the values in front of them; ``column`` counts these values too. ``clocked``:
    columns in which a word of the clock is refused. ``codec``: Python's name for the encoding of the data, in which no
    byte below 0x80 is a part of another character.
    """

    copy_format: CopyFormat
    column: int
    placer: KeyPlacer | None
    dealt: Dealt
    writer: Writer | None = None
    clocked: Sequence[int] = ()
    codec: str = "utf-8"


class LineSplitter:
    """Deals out lines; what text and CSV have in common. ``feed`` data, then ``finish``; results are in ``dealt``.

    ``ended``: the end marker was read, whatever follows is ignored. Errors are CombineFailures. ``waiting``: so many
    rows wait for values, until ``fill`` deals them out.
    """

    def __init__(self, by: Dealing) -> None:
        copy_format, column, placer, dealt = by.copy_format, by.column, by.placer, by.dealt
        key_type = placer.key_type if placer is not None else ""
        self.dealt = dealt
        self.ended = False
        self.waiting = 0
        self._writer = by.writer
        self._batches: list[tuple[list[bytes], bool, bool]] = []  # lines, whether plain, whether the last lacks an end
        self._placer = placer
        self._column = column
        self._clocked = by.clocked
        self._codec = None if by.codec == "utf-8" else by.codec
        self._delimiter = copy_format.delimiter.encode()
        self._null = copy_format.null.encode()
        self._header = copy_format.header
        self._eol: bytes | None = None
        self._inside = (0, 0)  # line ends inside of a row that is wrong
        self._rest: list[bytes] = []  # the beginning of a line, in pieces
        self._resume = 0  # where in it the walk goes on
        self._pattern = integer_key_pattern(key_type, column, self._delimiter) if key_type in INTEGER_TYPES else None
        self._translations = [bytes(int(byte == shard) for byte in range(256)) for shard in range(len(dealt.parts))]
        # What a plain integer is read as; not NULL, whatever the null string is.
        if self._pattern is not None and self._pattern.match(self._delimiter * column + self._null + b"\n"):
            self._pattern = None

    # --- data in ----------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the data."""
        if self.ended or not data:
            return
        if _LF not in data and _CR not in data:
            self._rest.append(data)
            return
        if self._rest:
            self._rest.append(data)
            data = b"".join(self._rest)
            self._rest.clear()
        block, rest = self._plain_block(data)
        if block:
            self._resume = 0
            lines = block.split(self._eol)
            lines.pop()
            self._deal(lines, block)
        else:
            rest = self._cut(data, final=False)
        if rest and not self.ended:
            self._rest.append(rest)

    def finish(self) -> None:
        """Hear that the data is over: a last line may lack its end."""
        if self.ended:
            return
        data = b"".join(self._rest)
        self._rest.clear()
        if data:
            data = self._cut(data, final=True)
        if data and not self.ended:
            # As it came, without an end: nothing follows it on any shard, and after a lone backslash an end would be
            # data.
            self._deal_last(data)

    def _plain_block(self, data: bytes) -> tuple[bytes, bytes]:
        """Split off the whole lines if ``bytes.split`` can cut them; an empty block if it cannot."""
        raise NotImplementedError

    def _cut(self, data: bytes, *, final: bool) -> bytes:
        """Cut and deal lines one by one; returns the beginning of a line that is left."""
        lines: list[bytes] = []
        try:
            rest = self._walk(data, lines, final=final)
        finally:
            self._deal(lines, None)  # also those before an error: a server may find another one there
        return b"" if self.ended else rest

    def _walk(self, data: bytes, lines: list[bytes], *, final: bool) -> bytes:
        """Cut lines one by one, adding them to ``lines``; returns the beginning of a line that is left."""
        raise NotImplementedError

    def _field(self, line: bytes, column: int) -> tuple[bool, bytes | None]:
        """Find a column in a line, in UTF-8: (False, None) when there are too few fields, (True, None) for NULL."""
        raise NotImplementedError

    def _utf8(self, field: bytes) -> bytes:
        r"""Convert a field before anything in it is read: ``\xC3`` is a byte of the server's encoding."""
        if self._codec is None or field.isascii():
            return field
        try:
            return field.decode(self._codec).encode()
        except UnicodeError:
            return field  # whichever server gets it says what is wrong

    def _check_words(self, lines: list[bytes], block: bytes | None) -> None:
        """Refuse words that each shard would read off its own clock."""
        if not self._clocked or not self._may_hold_words(_LF.join(lines) if block is None else block):
            return
        for line in filter(self._may_hold_words, lines):
            for column in self._clocked:
                _, value = self._field(line, column)
                if value is not None and clock_words.holds(value):
                    raise refusal("clock-word", value=repr(value.decode(errors="replace")))

    def _may_hold_words(self, data: bytes) -> bool:
        return clock_words.may_hold(data)

    def line(self) -> int:
        """Return the number of the client's line that is read now."""
        numbering = self.dealt.numbering
        return numbering.lines() + 1 + numbering.inside(self._inside, by_newline=self._eol == _LF)

    # --- rows out ---------------------------------------------------------------------------------------------

    def _deal(self, lines: list[bytes], block: bytes | None) -> None:
        """Deal out whole lines without their ends; ``block`` is all of them with ends, where they are plain."""
        eol = self._eol or _LF
        if self._header and lines:
            self._header = False
            header = lines.pop(0)
            ends = self._ends(header)[1]
            header += eol
            self._deal_header(header, ends)
            if block is not None:
                block = block[len(header) :]
        if not lines:
            return
        if self._writer is not None:
            self.waiting += len(lines)
            self._batches.append((lines, block is not None, False))
        else:
            self._deal_rows(lines, block)

    def _deal_header(self, header: bytes, carriage_returns: int) -> None:
        self.dealt.numbering.header(carriage_returns)
        self.dealt.add_to_all(header if self._writer is None else self._writer.header() + header)

    def _ends(self, line: bytes) -> tuple[int, int]:  # noqa: ARG002 - of the text format
        """Return how many newlines and carriage returns are inside of a row, between quotes."""
        return 0, 0

    def _folded(self, lines: list[bytes], own: list[bytes]) -> list[Folded]:  # noqa: ARG002 - of the text format
        """Return the rows that have some, ``own`` being what the client has sent of them."""
        return []

    def _deal_rows(self, lines: list[bytes], block: bytes | None, own: list[bytes] | None = None) -> None:
        self._check_words(lines, block)
        eol = self._eol or _LF
        folded = self._folded(lines, own or lines) if block is None else []
        if self._placer is None:
            self.dealt.add_to_all(eol.join([*lines, b""]))
            self.dealt.numbering.note(bytes(len(lines)), folded, by_newline=eol == _LF)
            return
        owners = self._owners(self._placer, lines, block)
        shards = len(self.dealt.parts)
        if shards <= _COMPRESSED_SHARDS:
            packed = bytes(owners)
            for shard in range(shards):
                mine = list(compress(lines, packed.translate(self._translations[shard])))
                if mine:
                    mine.append(b"")
                    self.dealt.add(shard, eol.join(mine))
        else:
            for line, owner in zip(lines, owners, strict=True):
                self.dealt.add(owner, line + eol)
        self.dealt.numbering.note(owners, folded, by_newline=eol == _LF)

    def _deal_last(self, line: bytes) -> None:
        if self._header:
            self._deal_header(line, self._ends(line)[1])
        elif self._writer is not None:
            self.waiting += 1
            self._batches.append(([line], False, True))
        else:
            self._deal_open(line, line)

    def _deal_open(self, line: bytes, own: bytes) -> None:
        """Deal out a last line, which has no end."""
        self._check_words([line], None)
        folded = self._folded([line], [own])
        if self._placer is None:
            self.dealt.add_to_all(line)
            return
        owners = self._owners(self._placer, [line], None)
        self.dealt.add(owners[0], line)
        self.dealt.numbering.note(owners, folded, by_newline=self._eol == _LF)

    def fill(self, rows: Sequence[Sequence[bytes | None]]) -> None:
        """Deal out the rows that wait, each behind its values."""
        if self._writer is None:
            raise AssertionError("no row waits for values")
        prefixes = list(map(self._writer.prefix, rows))
        for batch, plain, is_open in self._batches:
            mine, prefixes = prefixes[: len(batch)], prefixes[len(batch) :]
            lines = [prefix + line for prefix, line in zip(mine, batch, strict=True)]
            if is_open:
                self._deal_open(lines[0], batch[0])
                continue
            eol = self._eol or _LF
            still = plain and not any(map(self._remarkable, mine))
            self._deal_rows(lines, eol.join([*lines, b""]) if still else None, batch)
        self._batches.clear()
        self.waiting = 0

    def _remarkable(self, prefix: bytes) -> bool:
        """Whether fields cannot be told by delimiters alone."""
        return b"\\" in prefix

    def _owners(self, placer: KeyPlacer, lines: list[bytes], block: bytes | None) -> list[int]:
        if block is not None and self._pattern is not None:
            keys = self._pattern.findall(block)
            # One key for each line start at most, so equal numbers mean that every line has one.
            if len(keys) == len(lines):
                return placer.place_integers(keys)
        place, field, column = placer.place, self._field, self._column
        owners = []
        for line in lines:
            found, value = field(line, column)
            # A line that lacks its key column lacks data for it: any server will say so.
            owners.append(place(value, 0) if found else 0)
        return owners


class TextSplitter(LineSplitter):
    """COPY's text format."""

    _special = re.compile(rb"[\\\r\n]")

    def _plain_block(self, data: bytes) -> tuple[bytes, bytes]:
        eol = self._eol
        if _CR in data:
            cut = data.rfind(_CRLF) + 2
            block, expected = data[:cut], _CRLF
            ends = block.count(_CRLF)
            if cut < 2 or block.count(_CR) != ends or block.count(_LF) != ends or b"\\\r" in block:  # noqa: PLR2004
                return b"", data
        else:
            cut = data.rfind(_LF) + 1
            block, expected = data[:cut], _LF
        if eol not in (None, expected):
            return b"", data
        if b"\\" in block and (b"\\" + expected[:1] in block or b"\\." in block or b"\\" + self._delimiter in block):
            return b"", data
        self._eol = expected
        return block, data[cut:]

    def _walk(self, data: bytes, lines: list[bytes], *, final: bool) -> bytes:
        start = 0
        at = self._resume
        search = self._special.search
        while (match := search(data, at)) is not None:
            at = match.start()
            found = data[at : at + 1]
            following = data[at + 1 : at + 2]
            if found == b"\\":
                if not following and not final:
                    break
                if following == b"." and self._marker(data, start, at, final=final):
                    break
                at += 2
                continue
            if found == _CR and not following and not final and self._eol in (None, _CRLF):
                break  # CR or CRLF: the next byte tells
            stop = at
            at = self._line_end(found, following, at)
            lines.append(data[start:stop])
            start = at
        self._resume = max(min(at, len(data)) - start, 0) if match is not None else len(data) - start
        return data[start:]

    def _marker(self, data: bytes, start: int, at: int, *, final: bool) -> bool:
        r"""Look at ``\.``: it ended the data (:attr:`ended`), or more must come to tell; anything else is an error."""
        eol = self._eol
        after = data[at + 2 : at + 4]
        if len(after) < len(eol or _LF) and not final:
            return True
        last = after[:1]
        if eol == _CRLF:
            if last == _LF:
                raise CombineFailure(BAD_FORMAT, _OTHER_END)
            last = after[1:2] if last == _CR else b""
        if last not in (_CR, _LF):
            raise CombineFailure(BAD_FORMAT, _NOT_ALONE)
        if eol is not None and last != eol[-1:]:
            raise CombineFailure(BAD_FORMAT, _OTHER_END)
        if at > start:
            raise CombineFailure(BAD_FORMAT, _NOT_ALONE)
        self.ended = True
        return True

    def _line_end(self, found: bytes, following: bytes, at: int) -> int:
        """Check a line's end against the first one; returns where the next line begins."""
        eol = _CRLF if found == _CR and following == _LF and self._eol in (None, _CRLF) else found
        if self._eol is None:
            self._eol = eol
        elif self._eol != eol:
            if found == _CR:
                raise CombineFailure(
                    BAD_FORMAT, "literal carriage return found in data", hint='Use "\\r" to represent carriage return.'
                )
            raise CombineFailure(BAD_FORMAT, "literal newline found in data", hint='Use "\\n" to represent newline.')
        return at + len(eol)

    def _may_hold_words(self, data: bytes) -> bool:
        return _NUMBERED.search(data) is not None or clock_words.may_hold(data)

    def _field(self, line: bytes, column: int) -> tuple[bool, bytes | None]:
        delimiter = self._delimiter
        if b"\\" not in line:
            fields = line.split(delimiter, column + 1)
            if len(fields) <= column:
                return False, None
            value = self._utf8(fields[column])
            return True, None if value == self._null else value
        start = 0
        for number in range(column + 1):
            end = _text_field_end(line, start, delimiter)
            if number == column:
                raw = self._utf8(line[start:end])
                return True, None if raw == self._null else _ESCAPE.sub(_unescape, raw)
            if end == len(line):
                return False, None
            start = end + 1
        return False, None


def _text_field_end(line: bytes, start: int, delimiter: bytes) -> int:
    """Return where the field that begins at ``start`` ends: at a delimiter without a backslash before it."""
    at = start
    while True:
        end = line.find(delimiter, at)
        end = len(line) if end < 0 else end
        backslash = line.find(b"\\", at, end)
        if backslash < 0:
            return end
        at = backslash + 2
        if at > len(line):
            return len(line)


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, other = match.groups()
    if octal is not None:
        return bytes((int(octal, 8) & _BYTE,))
    if hexadecimal is not None:
        return bytes((int(hexadecimal, 16),))
    if other is None:
        return b""  # a backslash at the end of the data
    return _ESCAPED.get(other, other)


class CsvSplitter(LineSplitter):
    r"""COPY's CSV format. ``dot_ends``: a line ``\.`` ends the data (servers before 18)."""

    def __init__(self, by: Dealing, *, dot_ends: bool = False) -> None:
        super().__init__(by)
        copy_format = by.copy_format
        self._dot_ends = dot_ends
        self._quoted_null, self._never_null = copy_format.key_quoted_null, copy_format.key_never_null
        self._quote = copy_format.quote.encode()
        self._escape = copy_format.escape.encode()
        self._quoted = False
        self._escaped_at = -1  # the byte that an escape character before it protects
        special = {self._quote, self._escape, _CR, _LF}
        self._special = re.compile(b"[" + b"".join(re.escape(byte) for byte in sorted(special)) + b"]")

    def _remarkable(self, prefix: bytes) -> bool:
        return self._quote in prefix

    def _plain_block(self, data: bytes) -> tuple[bytes, bytes]:
        if self._quote in data or (self._dot_ends and b"\\." in data):
            return b"", data
        if _CR in data:
            cut = data.rfind(_CRLF) + 2
            block, expected = data[:cut], _CRLF
            ends = block.count(_CRLF)
            if cut < 2 or block.count(_CR) != ends or block.count(_LF) != ends:  # noqa: PLR2004
                return b"", data
        else:
            cut = data.rfind(_LF) + 1
            block, expected = data[:cut], _LF
        if self._eol not in (None, expected):
            return b"", data
        self._eol = expected
        return block, data[cut:]

    def _walk(self, data: bytes, lines: list[bytes], *, final: bool) -> bytes:
        start = 0
        at = self._resume
        quoted, escaped_at = self._quoted, self._escaped_at
        quote, escape = self._quote, self._escape
        search = self._special.search
        while (match := search(data, at)) is not None:
            at = match.start()
            found = data[at : at + 1]
            if found == quote:
                if escaped_at != at:
                    quoted = not quoted
                at += 1
            elif found == escape:
                if quoted and escaped_at != at:
                    escaped_at = at + 1  # the next byte is taken as it is, if it is a quote or an escape
                at += 1
            elif quoted:
                at += 1
            else:
                following = data[at + 1 : at + 2]
                if found == _CR and not following and not final and self._eol in (None, _CRLF):
                    break  # CR or CRLF: the next byte tells
                stop = at
                try:
                    at = self._line_end(found, following, at)
                except CombineFailure:
                    self._inside = self._ends(data[start:stop])
                    raise
                if self._dot_ends and data[start:stop] == b"\\.":
                    self.ended = True
                    break
                lines.append(data[start:stop])
                start = at
        self._resume = (at if match is not None else len(data)) - start
        self._quoted, self._escaped_at = quoted, escaped_at - start
        return data[start:]

    def _ends(self, line: bytes) -> tuple[int, int]:
        return line.count(_LF), line.count(_CR)

    def _folded(self, lines: list[bytes], own: list[bytes]) -> list[Folded]:
        return [
            Folded(index, self._ends(own[index]), self._ends(line))
            for index, line in enumerate(lines)
            if _LF in line or _CR in line
        ]

    def _line_end(self, found: bytes, following: bytes, at: int) -> int:
        """Check a line's end against the first one; returns where the next line begins."""
        eol = _CRLF if found == _CR and following == _LF and self._eol in (None, _CRLF) else found
        if self._eol is None:
            self._eol = eol
        elif self._eol != eol:
            what = "carriage return" if found == _CR else "newline"
            raise CombineFailure(
                BAD_FORMAT, f"unquoted {what} found in data", hint=f"Use quoted CSV field to represent {what}."
            )
        return at + len(eol)

    def _may_hold_words(self, data: bytes) -> bool:
        return clock_words.may_hold(data.translate(None, self._quote + self._escape))

    def _field(self, line: bytes, column: int) -> tuple[bool, bytes | None]:
        delimiter, quote = self._delimiter, self._quote
        fields = line.split(delimiter, column + 1)
        if quote not in line or not any(quote in field for field in fields[: column + 1]):
            if len(fields) <= column:
                return False, None
            value = self._utf8(fields[column])
            return True, None if value == self._null and not self._never_null else value
        at = 0
        for number in range(column + 1):
            if at > len(line):
                return False, None
            value, was_quoted, at = _csv_field(line, at, delimiter[0], quote[0], self._escape[0])
            if number == column:
                value = self._utf8(value)
                is_null = self._quoted_null if was_quoted else not self._never_null
                return True, None if is_null and value == self._null else value
        return False, None


def _csv_field(line: bytes, at: int, delimiter: int, quote: int, escape: int) -> tuple[bytes, bool, int]:
    """Read one CSV field from ``at``: its value, whether any of it was quoted, and where the next one begins."""
    out = bytearray()
    quoted = was_quoted = False
    end = len(line)
    while at < end:
        byte = line[at]
        at += 1
        if not quoted:
            if byte == delimiter:
                return bytes(out), was_quoted, at
            if byte == quote:
                quoted = was_quoted = True
                continue
        elif byte == escape and at < end and line[at] in (escape, quote):
            byte = line[at]
            at += 1
        elif byte == quote:
            quoted = False
            continue
        out.append(byte)
    return bytes(out), was_quoted, end + 1
