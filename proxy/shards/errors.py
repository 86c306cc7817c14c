"""The one border where asyncpg's and the operating system's exceptions become ShardError.

Decides which SQLSTATE a lost or failed connection has. What a client is told, and whether to try again, is for the
callers.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from proxy.errors import (
    CANNOT_CONNECT_NOW,
    CONNECTION_FAILURE,
    INTERNAL_ERROR,
    PROTOCOL_VIOLATION,
    UNABLE_TO_ESTABLISH_CONNECTION,
)
from proxy.wire.backend import Field, decode_error
from proxy.wire.errors import ProtocolViolation
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import HEADER_BYTES

# asyncpg's names for the fields of an ErrorResponse, by the protocol's letters and in Postgres's own order.
_FIELD_NAMES: Final = {
    "S": "severity",
    "V": "severity_en",
    "C": "sqlstate",
    "M": "message",
    "D": "detail",
    "H": "hint",
    "P": "position",
    "p": "internal_position",
    "q": "internal_query",
    "W": "context",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "data_type_name",
    "n": "constraint_name",
    "F": "server_source_filename",
    "L": "server_source_line",
    "R": "server_source_function",
}

#: What asyncpg's public calls raise: everything in it is translated, nothing else is caught.
FOREIGN_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError and ssl.SSLError are kinds of it
    EOFError,
)


class ShardError(Exception):
    """An error from a shard, or the loss of a link to it.

    ``fields`` are the server's own where the server spoke. ``raw`` is the whole ErrorResponse message as the server
    sent it, if it is at hand. ``lost`` tells that there is no link (any more): nothing is known about what the server
    did since it last answered; ``completed`` is the tag that it has sent last for what was asked, b'' if none is known.
    ``shard`` is the shard's index.
    """

    def __init__(self, fields: ErrorFields, shard: int, raw: bytes | None = None, *, lost: bool = False) -> None:
        super().__init__(fields, shard)
        self.fields = fields
        self.shard = shard
        self.raw = raw
        self.lost = lost
        self.completed = b""
        self.columns: tuple[Field, ...] | None = None  # of rows that the statement would have had: it ran

    @property
    def sqlstate(self) -> str:
        """The five characters."""
        return self.fields.sqlstate

    @property
    def message(self) -> str:
        """The primary message."""
        return self.fields.message

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.fields}"


def lost_link(shard: int, name: str, cause: BaseException | None = None) -> ShardError:
    """Make the error for a link that ended without a word from the server."""
    return ShardError(
        ErrorFields.make("ERROR", CONNECTION_FAILURE, f'connection to shard "{name}" was lost', detail=_reason(cause)),
        shard,
        lost=True,
    )


def unreachable(shard: int, name: str, cause: BaseException | None = None) -> ShardError:
    """Make the error for a server that could not be connected to."""
    message = f'could not connect to shard "{name}"'
    return ShardError(
        ErrorFields.make("ERROR", UNABLE_TO_ESTABLISH_CONNECTION, message, detail=_reason(cause)), shard, lost=True
    )


def standby(shard: int, name: str) -> ShardError:
    """Make the error for a server that is no primary: it shows nothing as prepared, whatever is, and has no locks."""
    message = f'shard "{name}" is a standby'
    detail = "Its pg_prepared_xacts is empty, and nobody can hold back commits there."
    return ShardError(ErrorFields.make("ERROR", CANNOT_CONNECT_NOW, message, detail=detail), shard, lost=True)


def not_applied(shard: int, name: str) -> ShardError:
    """Make the error for a shard that is there, and on which decided transactions are still to be applied."""
    message = f'shard "{name}" is not served yet'
    detail = "Transactions that are committed elsewhere could not be applied there so far."
    return ShardError(ErrorFields.make("ERROR", CANNOT_CONNECT_NOW, message, detail=detail), shard)


def spoken(raw: bytes, shard: int, name: str, *, lost: bool = False) -> ShardError:
    """Make the error that an ErrorResponse tells, or the one for an ErrorResponse that cannot be read."""
    try:
        fields = decode_error(raw[HEADER_BYTES:])
    except ProtocolViolation as violation:
        return broken_protocol(shard, name, violation.message)
    return ShardError(fields, shard, raw, lost=lost)


def broken_protocol(shard: int, name: str, what: str) -> ShardError:
    """Make the error for a server that said what nobody asked for."""
    message = f'shard "{name}" broke the protocol: {what}'
    return ShardError(ErrorFields.make("ERROR", PROTOCOL_VIOLATION, message), shard, lost=True)


def unhandled(shard: int, name: str, cause: Exception) -> ShardError:
    """Make the error for an answer whose receiver failed."""
    message = f'the answer of shard "{name}" could not be handled'
    error = ShardError(ErrorFields.make("ERROR", INTERNAL_ERROR, message), shard, lost=True)
    error.__cause__ = cause
    return error


def translate(error: BaseException, shard: int, name: str, *, connecting: bool = False) -> ShardError:
    """Turn one of FOREIGN_ERRORS into a ShardError; the server's own words are kept when there are any."""
    said = _server_error(error)
    if said is not None:
        lost = connecting or said is not error or str(said.severity_en or said.severity) in {"FATAL", "PANIC"}
        return ShardError(_fields(said), shard, lost=lost)
    return unreachable(shard, name, error) if connecting else lost_link(shard, name, error)


def not_let_in(error: ShardError, name: str) -> ShardError:
    """Where a shard does not let the proxy itself in, say which, and whose password it wants; else as it is."""
    if not error.sqlstate.startswith("28"):
        return error
    detail = f"That was shard {name}, which the role of its DSN wanted to log in to."
    said = " ".join(part for part in (error.fields.detail, detail) if part)
    hint = "Its password is the DSN's, or in the proxy's environment (PGPASSWORD), or in ~/.pgpass."
    head = {code: text for code, text in error.fields.fields.items() if code in "SVCM"}
    fields = ErrorFields(head | {"D": said, "H": hint} | dict(error.fields.fields) | {"D": said})
    return ShardError(fields, error.shard, error.raw, lost=error.lost)


def _server_error(error: BaseException | None) -> asyncpg.PostgresError | None:
    """Find what the server said: asyncpg wraps a FATAL in an error of its own, and makes up some 08 errors itself."""
    while error is not None:
        if isinstance(error, asyncpg.PostgresError) and getattr(error, "severity", None):
            return error
        error = error.__cause__
    return None


def _fields(error: asyncpg.PostgresError) -> ErrorFields:
    texts = {code: getattr(error, name, None) for code, name in _FIELD_NAMES.items()}
    return ErrorFields({code: str(text) for code, text in texts.items() if text is not None})


def _reason(cause: BaseException | None) -> str:
    if cause is None or isinstance(cause, asyncpg.InternalClientError):
        return ""  # the driver's own state, which says nothing to a client
    if isinstance(cause, TimeoutError) and not str(cause):
        return "timed out"
    return str(cause) or type(cause).__name__


def is_fatal(raw: bytes) -> bool:
    """Tell whether an ErrorResponse ends the connection: field V is never localized, and no text holds a NUL."""
    return b"\0VFATAL\0" in raw or b"\0VPANIC\0" in raw
