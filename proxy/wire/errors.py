"""What a peer did wrong on the wire.

Decides nothing but the shape: who raises it picks SQLSTATE and text, which are Postgres's own wherever Postgres has
one. The session decides what becomes of it: an ERROR (and skipping until Sync) or a FATAL and a closed socket.
"""

from __future__ import annotations

PROTOCOL_VIOLATION = "08P01"
FEATURE_NOT_SUPPORTED = "0A000"
INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105 - a SQLSTATE


class WireFailure(Exception):  # noqa: N818 - the base of two kinds of blame
    """A peer cannot be served; everything that an ErrorResponse needs.

    ``fatal`` tells whether Postgres ends the connection: it does when message boundaries can no longer be trusted, and
    for anything wrong before the first ReadyForQuery; a wrong message body costs only that message.
    """

    def __init__(self, sqlstate: str, message: str, *, detail: str = "", hint: str = "", fatal: bool = False) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.fatal = fatal

    @property
    def severity(self) -> str:
        """ERROR or FATAL, as ErrorResponse spells it."""
        return "FATAL" if self.fatal else "ERROR"


class ProtocolViolation(WireFailure):
    """Bytes that the protocol does not allow, at all or at this moment."""


class UnknownMessageType(ProtocolViolation):
    """A type byte that no client's message has. Fatal: where the next message begins cannot be known."""

    def __init__(self, kind: int) -> None:
        super().__init__(PROTOCOL_VIOLATION, f"invalid frontend message type {kind}", fatal=True)
        self.kind = kind


class AuthenticationFailed(WireFailure):
    """Well-formed bytes that prove nothing: a wrong password, an unknown user. Always fatal."""

    def __init__(self, user: str) -> None:
        super().__init__(INVALID_PASSWORD, f'password authentication failed for user "{user}"', fatal=True)


def malformed(message: str, *, detail: str = "") -> ProtocolViolation:
    """Make the error for one message whose body is wrong and whose boundaries are right."""
    return ProtocolViolation(PROTOCOL_VIOLATION, message, detail=detail)


def desynchronized(message: str, *, detail: str = "") -> ProtocolViolation:
    """Make the error after which nothing more can be read from this peer."""
    return ProtocolViolation(PROTOCOL_VIOLATION, message, detail=detail, fatal=True)
