"""Unnamed statements, and Queries of integers, that are run as prepared ones of their link.

Parsing, analysing and planning a point query is half of what it costs a server, and an unnamed statement pays that each
time. One that finds a row by its key (``KnownBind.share``) is prepared on the link under the name that all sessions
with the same text and settings share; then Bind names it, and ParseComplete is put in front of the answer here.

A Query over several shards that finds one by integers in its text (``Shortcut.link_name``) likewise: they become
parameters, and BindComplete is taken off the answer (router.bound_query). A portal that is described, and executed in
text, says the same as a Query.

Nobody may see it. An error that comes before anything was bound (or parsed, where the statement is being prepared)
means that nothing has happened: the table is gone, its columns are others, the link has lost its statements. Then the
statement is sent once more, as it came, and that answer is the client's. Only a cancel or a timeout (57014) is told as
it is: it was meant for this statement, and Postgres might have told it of a Parse. What comes before the first answer,
notices, waits for that. A link that is lost is not asked again. Of a Query nothing has happened before it is bound.

Decided here: what is sent, and what has become of a statement by what is answered first. The rest is the lane's
(proxy.session.lane).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import QUERY_CANCELED
from proxy.wire import backend, frontend
from proxy.wire.backend import decode_error
from proxy.wire.frames import HEADER_BYTES, walk

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk, Frame
    from router.shortcut import Expected

#: What is under way: nothing of this kind, a Bind of what the link has, or what prepares it there as well.
NOT_SHARED: Final = 0
BOUND: Final = 1
PREPARED: Final = 2
#: The same of a Query, in the same order.
QUERY_BOUND: Final = 3
QUERY_PREPARED: Final = 4
#: What an answer has said so far: nothing that counts, that it goes on as any, that nothing has happened.
UNDECIDED: Final = 0
GOES_ON: Final = 1
REFUSED: Final = 2
PARSED_FRAME: Final = backend.parse_complete()
BOUND_FRAME: Final = backend.bind_complete()
#: How an answer to a Query begins that the client does not get, where it begins as it is expected.
BEFORE_QUERY: Final = (b"", b"", b"", BOUND_FRAME, PARSED_FRAME + BOUND_FRAME)
_PARSED, _BOUND, _CLOSED, _ERROR = b"123E"
_EXISTS: Final = "42P05"
_LOST: Final = "26000"


def prepare_and_bind(link: ShardLink, known: Expected, data: bytes, limit: int) -> bytes:
    """Return what prepares a statement on a link and runs it; a link that has ``limit`` of them loses its oldest."""
    statements = link.statements
    sent = b""
    while len(statements) >= limit:
        oldest, _ = statements.popitem(last=False)
        sent += frontend.Close(b"S", oldest.encode()).encode()
    statements[known.link_name] = None
    return sent + known.parse_alike(data) + known.sent_alike(data)


class Opening:
    """The beginning of one answer that is not plain, until it is known what has become of the statement."""

    __slots__ = ("_held", "_kind", "_known", "_link", "_parsed", "chunk", "index", "state")

    def __init__(self, kind: int, known: Expected, link: ShardLink) -> None:
        self._kind = kind
        self._known = known
        self._link = link
        self._parsed = kind in {BOUND, QUERY_BOUND}  # the link has it
        self._held = b""  # what has come before the first answer
        self.state = UNDECIDED
        #: What is to be passed on, when it goes on.
        self.chunk: bytes = b""
        self.index: list[Frame] = []

    def came(self, chunk: Chunk, index: list[Frame]) -> None:
        """Look at frames of the answer."""
        bound, query = self._kind == BOUND, self._kind >= QUERY_BOUND
        first = _BOUND if bound or query else _PARSED
        for at, (kind, start, end) in enumerate(index):
            if kind == _CLOSED:
                continue
            if kind == first:
                self._go_on(PARSED_FRAME if bound else b"", chunk, index[at + query :])
                return
            if kind == _PARSED:
                self._parsed = True
                continue
            if kind == _ERROR:
                self._failed(decode_error(bytes(chunk[start + HEADER_BYTES : end])).sqlstate)
                if self.state == GOES_ON:
                    self._go_on(b"", chunk, index[at:])
                return
            self._held += bytes(chunk[start:end])

    def _go_on(self, before: bytes, chunk: Chunk, index: list[Frame]) -> None:
        self.state = GOES_ON
        self.chunk = b"".join([self._held, before, *(chunk[start:end] for _, start, end in index)])
        self.index = walk(self.chunk, 0, len(self.chunk))[0]

    def _failed(self, sqlstate: str) -> None:
        """Nothing was bound, or parsed: note what the link has now."""
        if (sqlstate == _LOST) if self._parsed else (sqlstate != _EXISTS):
            self._link.statements.pop(self._known.link_name, None)
        self.state = GOES_ON if sqlstate == QUERY_CANCELED else REFUSED
