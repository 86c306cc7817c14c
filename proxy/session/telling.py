"""How what went wrong is told to a client: the one translation of exceptions into ErrorResponse.

Decides which exceptions are a client's to hear; any other is a bug, and is raised on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.encodings import UTF8
from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.errors import WireFailure
from proxy.wire.fields import ErrorFields
from router.errors import Refused, SyntaxFailure

if TYPE_CHECKING:
    from proxy.encodings import Encoding

_LAST_WORDS: Final = ("FATAL", "PANIC")


def error_frame(error: Exception, encoding: Encoding = UTF8) -> bytes:
    """Translate what can go wrong into an ErrorResponse; anything else is a bug and is raised on.

    What a shard says goes out in the bytes that it came in, which are the client's ``encoding`` already.
    """
    if isinstance(error, ShardError):
        if error.fields.severity in _LAST_WORDS:
            # A shard's, not ours: the client's session goes on.
            return backend.error_response(error.fields.replace(S="ERROR", V="ERROR"))
        return error.raw if error.raw is not None else backend.error_response(error.fields)
    if isinstance(error, ProxyError):
        return _own_error(error.fields(), encoding)
    if isinstance(error, Refused):
        fields = ErrorFields.make(
            "ERROR",
            error.sqlstate,
            error.message,
            detail=error.detail,
            hint=error.hint,
            position=error.position,
        )
        return _own_error(fields, encoding)
    if isinstance(error, SyntaxFailure):
        return _own_error(ErrorFields.make("ERROR", "42601", error.message, position=error.position), encoding)
    if isinstance(error, WireFailure):
        return backend.error_response(
            ErrorFields.make(error.severity, error.sqlstate, error.message, detail=error.detail, hint=error.hint)
        )
    raise error


def _own_error(fields: ErrorFields, encoding: Encoding) -> bytes:
    if not encoding.is_utf8:
        fields = fields.replace(**{code: encoding.shown(text) for code, text in fields.fields.items()})
    return backend.error_response(fields)


def sqlstate_of(error: Exception) -> str:
    """Return the SQLSTATE of an exception that :func:`error_frame` translates."""
    if isinstance(error, ShardError):
        return error.fields.sqlstate
    return "42601" if isinstance(error, SyntaxFailure) else str(getattr(error, "sqlstate", "XX000"))


CLIENT_ERRORS = (ShardError, ProxyError, Refused, SyntaxFailure, WireFailure)


def raise_if_fatal(error: Exception) -> None:
    """A violation after which message boundaries cannot be trusted ends the connection, not the statement."""
    if isinstance(error, WireFailure) and error.fatal:
        raise error
