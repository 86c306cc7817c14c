"""Speaking with a shard that calls user-defined types by other OIDs than home, by which clients know them.

A *translating* receiver stands between the wire of a link and the receiver of one exchange: what is written through it
says the shard's OIDs, what comes back says home's. Messages keep their lengths, so frames stay where they are. Rows in
binary have OIDs inside, and to find these the columns must be known: where a Bind asks for binary ones and nobody has
described them on this link, a Describe is added behind it, and its answer kept from the receiver.

An exchange that says nothing of types (``Relay.ask``) goes without, unless a RowDescription comes that says something:
a Translating made then translates what is left, since only what was asked in binary would have had to be noted before.

A type that the shard does not have is refused here (0A000): Parse is given an OID that no type has, and the error that
this makes is replaced.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.wire import backend, frontend
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import HEADER_BYTES, walk
from proxy.wire.oids import NO_TYPE, column_oids, parameter_oids, parse_oids, patched, row_oids
from router.errors import refusal

if TYPE_CHECKING:
    from proxy.shards.errors import ShardError
    from proxy.shards.receiver import Chunk, Frame, Receiver
    from proxy.wire.oids import Column, Form, Patches, TypeMap

_PARSE, _BIND, _DESCRIBE, _EXECUTE, _CLOSE, _QUERY, _SYNC = b"PBDECQS"
_CYCLES: Final = frozenset({_QUERY, _SYNC})
_COPYING: Final = frozenset(b"dcf")
_ROW, _COLUMNS, _NO_DATA, _PARAMETERS, _READY, _ERROR = b"DTntZE"
_EXECUTED: Final = frozenset(b"CIs")
_PORTAL: Final = ord("P")
_NO_TYPE_TEXT: Final = str(NO_TYPE).encode()
_NO_FORMS: Final[tuple[Form | None, ...]] = ()
_MANY: Final = 1_000


class Known:
    """What has been seen on a link of statements and portals: their columns, as the shard calls them."""

    __slots__ = ("portals", "statements")

    def __init__(self) -> None:
        self.portals: dict[bytes, tuple[Column, ...]] = {}
        self.statements: dict[tuple[bytes, tuple[int, ...]], tuple[Column, ...]] = {}

    def passed_by(self, data: bytes) -> None:
        """Forget what messages replace that go out without being looked at: the unnamed statement and portal."""
        self.portals.pop(b"", None)
        if self.statements and data[0] == _PARSE:
            self.parsed(b"")

    def parsed(self, name: bytes) -> None:
        """Forget a statement whose name means another one now."""
        if len(self.statements) >= _MANY:
            self.statements.clear()
        for key in [key for key in self.statements if key[0] == name]:
            del self.statements[key]


class _Asked(NamedTuple):
    """A message whose answer is still to come. ``bound`` of a Describe of ours: what it is to be remembered by."""

    kind: int
    portal: bytes | None = None
    bound: tuple[bytes, tuple[int, ...]] | None = None


class Translating:
    """The receiver of one exchange in translation."""

    __slots__ = ("_asked", "_forms", "_known", "_missing", "_name", "_receiver", "_types", "takes_runs")

    def __init__(self, types: TypeMap, known: Known, name: str, receiver: Receiver) -> None:
        self._types = types
        self._known = known
        self._name = name
        self._receiver = receiver
        self._asked: deque[_Asked] = deque()
        self._forms: tuple[Form | None, ...] | None = _NO_FORMS  # of the rows that come; None: not to be looked at
        self._missing = 0
        self.takes_runs: bool = getattr(receiver, "takes_runs", False)

    # --- to the shard -----------------------------------------------------------------------------------------

    def outgoing(self, data: bytes | memoryview) -> bytes | memoryview:
        """Return messages as the shard is to have them."""
        if data and data[0] in _COPYING:
            return data
        patches: Patches = []
        added: list[tuple[int, bytes]] = []
        for kind, start, stop in walk(data, 0, len(data))[0]:
            if kind == _PARSE:
                self._missing = parse_oids(self._types, data, start, stop, patches) or self._missing
            extra = self._note(kind, bytes(data[start + HEADER_BYTES : stop]))
            if extra:
                added.append((stop, extra))
        if not patches and not added:
            return data
        out = patched(data, patches)
        for stop, extra in reversed(added):
            out = out[:stop] + extra + out[stop:]
        return out

    def _note(self, kind: int, body: bytes) -> bytes:
        """Note what a message asks for; returns what is to be added behind it."""
        if kind == _BIND:
            return self._bind(body)
        if kind == _PARSE:
            self._known.parsed(body[: body.index(0)])
        elif kind == _DESCRIBE:
            self._asked.append(_Asked(kind, body[1:-1] if body[0] == _PORTAL else None))
        elif kind == _EXECUTE:
            self._asked.append(_Asked(kind, body[: body.index(0)]))
        elif kind in _CYCLES:
            self._asked.append(_Asked(kind))
        elif kind == _CLOSE and body[0] != _PORTAL:
            self._known.parsed(body[1:-1])
        return b""

    def _bind(self, body: bytes) -> bytes:
        """Note the columns of a portal; returns the Describe that finds them out, if that is needed."""
        bind = frontend.decode(_BIND, body)
        assert isinstance(bind, frontend.Bind)  # noqa: S101 - its type byte says so
        portals = self._known.portals
        portals.pop(bind.portal, None)
        if not any(bind.result_formats):
            return b""
        bound = (bind.statement, bind.result_formats)
        columns = self._known.statements.get(bound)
        if columns is not None:
            portals[bind.portal] = columns
            return b""
        self._asked.append(_Asked(_DESCRIBE, bind.portal, bound))
        return frontend.Describe(b"P", bind.portal).encode()

    # --- from the shard (proxy.shards.receiver.Receiver) --------------------------------------------------------

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Translate the frames of a chunk and hand them on."""
        patches: Patches = []
        kept: list[Frame] = []
        refused = False
        for entry in index:
            kind, start, stop = entry
            if kind == _ROW:
                self._rows(chunk, start, stop, patches)
            elif kind == _COLUMNS:
                if self._described(column_oids(self._types, chunk, start, stop, patches)):
                    continue
            elif kind == _NO_DATA:
                if self._described(()):
                    continue
            elif kind == _ERROR:
                refused = refused or (self._missing != 0 and _NO_TYPE_TEXT in bytes(chunk[start:stop]))
            else:
                self._other(kind, chunk, start, patches)
            kept.append(entry)
        if patches:
            chunk = patched(chunk, patches)
        if refused or len(kept) != len(index):
            chunk, kept = self._closed_up(chunk, kept)
        return self._receiver.frames(chunk, kept) if kept else False

    def _other(self, kind: int, chunk: Chunk, start: int, patches: Patches) -> None:
        if kind == _PARAMETERS:
            parameter_oids(self._types, chunk, start, patches)
        elif kind == _READY:
            self._synced()
        elif kind in _EXECUTED and self._asked and self._asked[0].kind == _EXECUTE:
            self._asked.popleft()
            self._forms = _NO_FORMS

    def lost(self, error: ShardError, /) -> None:
        """Pass it on."""
        self._receiver.lost(error)

    def _rows(self, chunk: Chunk, start: int, stop: int, patches: Patches) -> None:
        """Look at a row, or at a run of them (proxy.shards.receiver.RunReceiver)."""
        forms = self._forms
        if forms is _NO_FORMS:
            head = self._asked[0] if self._asked else None
            columns = self._known.portals.get(head.portal or b"", ()) if head is not None else ()
            forms = self._forms = self._types.forms_of(columns)
        if forms is not None:
            for _, begin, _ in walk(chunk, start, stop)[0]:
                row_oids(self._types, chunk, begin, forms, patches)

    def _described(self, columns: tuple[Column, ...]) -> bool:
        """Note the columns that a Describe has found, or that a Query's rows have; True if the Describe was ours."""
        head = self._asked[0] if self._asked else None
        if head is None or head.kind != _DESCRIBE:
            self._forms = self._types.forms_of(columns)
            return False
        self._asked.popleft()
        if head.portal is not None:
            self._known.portals[head.portal] = columns
        if head.bound is None:
            return False
        self._known.statements[head.bound] = columns
        return True

    def _synced(self) -> None:
        """Forget what has been answered, or skipped after an error, up to this ReadyForQuery."""
        self._forms = _NO_FORMS
        while self._asked and self._asked.popleft().kind not in _CYCLES:
            pass

    def _closed_up(self, chunk: Chunk, index: list[Frame]) -> tuple[bytes, list[Frame]]:
        """Return the frames that stay without gaps, a refusal in the place of the complaint about our OID."""
        frames = []
        placed: list[Frame] = []
        at = 0
        for kind, start, stop in index:
            raw = bytes(chunk[start:stop])
            if kind == _ERROR and self._missing and _NO_TYPE_TEXT in raw:
                raw = self._refusal()
            frames.append(raw)
            placed.append((kind, at, at + len(raw)))
            at += len(raw)
        return b"".join(frames), placed

    def _refusal(self) -> bytes:
        why = refusal("parameter-type", shard=self._name, oid=str(self._missing))
        return backend.error_response(ErrorFields.make("ERROR", why.sqlstate, why.message, hint=why.hint))
