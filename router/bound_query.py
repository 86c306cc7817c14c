"""A Query whose integers are bound: what a link is sent of it when it has the template as a prepared statement.

An integer of a template (router.lifting) is an int4, so the parameter in its place is one: the same operators and the
same index are found with it. Which templates may be run so is router.one_row's to say.

Pure, and bytes: no message is made that the link's server would not answer with BindComplete and then, byte for byte,
what it answers the Query.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Hashable

    from router.lifting import Template

_INT4: Final = 23
_MOST_DIGITS: Final = 9
_HEADER_BYTES: Final = 5
_LENGTH_BYTES: Final = 4
_header: Final = Struct(">ci").pack
_count: Final = Struct(">h").pack
_length: Final = Struct(">i").pack
#: All results are texts; then Describe of the unnamed portal, Execute without a limit, Sync.
QUERY_TAIL: Final = b"\0\0" + b"D\0\0\0\6P\0" + b"E\0\0\0\t\0\0\0\0\0" + b"S\0\0\0\4"


def with_parameters(template: Template) -> str:
    """Return the text with $1, $2 ... where the integers were."""
    return template[0] + "".join(f"${number}{piece}" for number, piece in enumerate(template[1:], 1))


class BoundQuery:
    """The messages of one template. ``name``: of the statement on links; the same for all who read the text alike.

    ``read_by``: whatever else it is read by than its text. ``pattern`` matches a Query message of this template, its
    groups are the integers.

    Of a message with one integer ``heads[len(message)] + message[begin:end] + QUERY_TAIL`` is what runs it: for those
    to whom calls are dear (proxy.session.lane_quick). With more there are no ``heads``.
    """

    __slots__ = ("_names", "_pattern", "begin", "end", "heads", "name", "parse")

    def __init__(
        self, template: Template, pattern: Callable[[bytes], re.Match[bytes] | None], read_by: Hashable
    ) -> None:
        text = with_parameters(template)
        self._pattern = pattern
        count = len(template) - 1
        self.name = "pgchorus_" + blake2b(repr(("query", text, read_by)).encode(), digest_size=16).hexdigest()
        names = self.name.encode() + b"\0"
        body = names + text.encode("ascii") + b"\0" + _count(count) + _length(_INT4) * count
        self.parse: bytes = _header(b"P", _LENGTH_BYTES + len(body)) + body
        self._names: bytes = b"\0" + names + b"\0\0" + _count(count)
        self.begin = _HEADER_BYTES + len(template[0])
        self.end = -len(template[-1]) - 1
        rest = _LENGTH_BYTES + len(self._names) + _LENGTH_BYTES + 2
        around = self.begin - self.end
        self.heads: dict[int, bytes] = {}
        if count == 1:
            for digits in range(1, _MOST_DIGITS + 1):
                self.heads[around + digits] = _header(b"B", rest + digits) + self._names + _length(digits)

    def bind(self, data: bytes) -> bytes:
        """Return what runs a Query message that the pattern matches."""
        heads = self.heads
        if heads:
            return heads[len(data)] + data[self.begin : self.end] + QUERY_TAIL
        match = self._pattern(data)
        assert match is not None  # noqa: S101 - the caller's word
        values = b"".join([_length(len(value)) + value for value in match.groups()])
        head = _header(b"B", _LENGTH_BYTES + len(self._names) + len(values) + 2)
        return b"".join((head, self._names, values, QUERY_TAIL))
