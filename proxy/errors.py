"""Errors that the proxy itself makes up: SQLSTATE constants by class, and the exception that carries one to a client.

Errors from shards are ShardError (proxy.shards), refusals of the router are Refused (router.errors), a peer's bad bytes
are WireFailure (proxy.wire): each is turned into ErrorFields at one border. This is the floor's own kind.

https://www.postgresql.org/docs/18/errcodes-appendix.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from typing import Self

    from router.errors import Refused

# 01 - warning
WARNING = "01000"
# 08 - connection exception
CONNECTION_FAILURE = "08006"
CONNECTION_DOES_NOT_EXIST = "08003"
SERVER_REJECTED_CONNECTION = "08004"
UNABLE_TO_ESTABLISH_CONNECTION = "08001"
TRANSACTION_RESOLUTION_UNKNOWN = "08007"
PROTOCOL_VIOLATION = "08P01"
# 0A - feature not supported
FEATURE_NOT_SUPPORTED = "0A000"
# 22 - data exception
INVALID_PARAMETER_VALUE = "22023"
BAD_COPY_FILE_FORMAT = "22P04"
# 23 - integrity constraint violation
UNIQUE_VIOLATION = "23505"
# 24 - invalid cursor state
INVALID_CURSOR_STATE = "24000"
# 25 - invalid transaction state
ACTIVE_SQL_TRANSACTION = "25001"
NO_ACTIVE_SQL_TRANSACTION = "25P01"
IN_FAILED_SQL_TRANSACTION = "25P02"
READ_ONLY_SQL_TRANSACTION = "25006"
IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03"
TRANSACTION_TIMEOUT = "25P04"
# 26 - invalid SQL statement name
INVALID_SQL_STATEMENT_NAME = "26000"
# 28 - invalid authorization specification
INVALID_AUTHORIZATION_SPECIFICATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105 - a SQLSTATE
# 34 - invalid cursor name
INVALID_CURSOR_NAME = "34000"
# 3B - savepoint exception
INVALID_SAVEPOINT_SPECIFICATION = "3B001"
# 3D - invalid catalog name
INVALID_CATALOG_NAME = "3D000"
# 40 - transaction rollback
TRANSACTION_ROLLBACK = "40000"
SERIALIZATION_FAILURE = "40001"
STATEMENT_COMPLETION_UNKNOWN = "40003"
DEADLOCK_DETECTED = "40P01"
# 42 - syntax error or access rule violation
SYNTAX_ERROR = "42601"
INSUFFICIENT_PRIVILEGE = "42501"
UNDEFINED_TABLE = "42P01"
UNDEFINED_OBJECT = "42704"
DUPLICATE_PREPARED_STATEMENT = "42P05"
DUPLICATE_CURSOR = "42P03"
# 53 - insufficient resources
INSUFFICIENT_RESOURCES = "53000"
OUT_OF_MEMORY = "53200"
TOO_MANY_CONNECTIONS = "53300"
CONFIGURATION_LIMIT_EXCEEDED = "53400"
# 54 - program limit exceeded
PROGRAM_LIMIT_EXCEEDED = "54000"
# 55 - object not in prerequisite state
OBJECT_NOT_IN_PREREQUISITE_STATE = "55000"
LOCK_NOT_AVAILABLE = "55P03"
# 57 - operator intervention
QUERY_CANCELED = "57014"
ADMIN_SHUTDOWN = "57P01"
CRASH_SHUTDOWN = "57P02"
CANNOT_CONNECT_NOW = "57P03"
IDLE_SESSION_TIMEOUT = "57P05"
# What concerns a whole server, and not one link to it or one statement there: it is down, or about to be.
SHARD_DOWN = frozenset(
    {CONNECTION_FAILURE, UNABLE_TO_ESTABLISH_CONNECTION, ADMIN_SHUTDOWN, CRASH_SHUTDOWN, CANNOT_CONNECT_NOW}
)
# 58 - system error
SYSTEM_ERROR = "58000"
# XX - internal error
INTERNAL_ERROR = "XX000"


class ProxyError(Exception):
    """An answer of the proxy's own to a client: ``severity`` ERROR ends a statement, FATAL the connection.

    ``position`` counts characters of the statement's text from 1. ``routine`` is where Postgres would raise it, for
    errors by which drivers go that look at nothing else.
    """

    def __init__(  # noqa: PLR0913 - as many as an error has parts
        self,
        sqlstate: str,
        message: str,
        *,
        severity: str = "ERROR",
        detail: str = "",
        hint: str = "",
        position: int | None = None,
        routine: str = "",
        context: str = "",
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.severity = severity
        self.detail = detail
        self.hint = hint
        self.position = position
        self.routine = routine
        self.context = context

    @classmethod
    def of_refusal(cls, refused: Refused) -> Self:
        """Make an answer of what the catalogue of refusals says, where no statement is refused but a connection."""
        return cls(refused.sqlstate, refused.message, detail=refused.detail, hint=refused.hint)

    def fields(self) -> ErrorFields:
        """Return what goes into ErrorResponse."""
        made = ErrorFields.make(
            self.severity,
            self.sqlstate,
            self.message,
            detail=self.detail,
            hint=self.hint,
            position=self.position,
        )
        return made.replace(W=self.context or None, R=self.routine or None)

    def __str__(self) -> str:
        return f"{self.severity} {self.sqlstate}: {self.message}"


class ClientGone(ConnectionError):  # noqa: N818 - what happened; nobody is to blame
    """The client's connection ended; nobody is left to be told anything."""


class ClientSaidAll(ClientGone):
    """The client says no more, and may still listen."""


class DefinitionsChangedError(ProxyError):
    """A statement was planned by what is changed; nothing of it has been done."""


def definitions_changed() -> DefinitionsChangedError:
    """Return what those are told whose statement was planned by what is changed."""
    return DefinitionsChangedError(
        SERIALIZATION_FAILURE,
        "could not serialize access due to a change of definitions",
        detail="What the statement uses was changed while it waited.",
        hint="Try again.",
    )
