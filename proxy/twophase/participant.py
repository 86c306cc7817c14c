"""What two-phase commit asks of the links it commits over, and of control connections: Protocols, nothing else.

``proxy.shards`` implements them and is not imported here: the two meet in this file only.

Duties of a link during a commit: ``run`` is one simple Query, with no timeout of its own and no cancel request ever
sent for it; it raises an exception with the shape of ``ShardFailure`` when the server answered with an error or when
the link is lost; after a lost link ``closed`` is true. ``status`` is the byte of the last ReadyForQuery. ``post`` is
the same for those who are called back; it may send what does the same as the text (bound statements).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from proxy.wire.fields import ErrorFields

STATUS_IDLE = ord("I")
STATUS_BLOCK = ord("T")
STATUS_FAILED = ord("E")


class Answer(Protocol):
    """What a simple Query gave: all command tags, the rows of the last statement with rows (text), notices, status."""

    @property
    def tags(self) -> tuple[bytes, ...]:
        """The command tags, one for each statement."""
        ...

    @property
    def rows(self) -> Sequence[Sequence[bytes | None]]:
        """The rows of the last statement that gave any, in text format."""
        ...

    @property
    def notices(self) -> tuple[ErrorFields, ...]:
        """What the server said besides."""
        ...

    @property
    def status(self) -> int:
        """The byte of the last ReadyForQuery."""
        ...


class Participant(Protocol):
    """A shard link on which a transaction is open."""

    @property
    def shard(self) -> int:
        """The shard's index."""
        ...

    @property
    def name(self) -> str:
        """The shard's name."""
        ...

    @property
    def status(self) -> int:
        """The byte of the last ReadyForQuery."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        ...

    @property
    def pid(self) -> int:
        """The backend's process id."""
        ...

    async def run(self, sql: str) -> Answer:
        """Run one simple Query; raises a ShardFailure."""
        ...

    def post(self, sql: str, told: Callable[[Answer | Exception], None]) -> None:
        """Run one simple Query; ``told`` is called once, later, with the answer or a ShardFailure.

        Of the rows it needs to be told the first only, and nothing of fields. The link may be used in that call.
        """

    def abort(self) -> None:
        """Close the socket, now; a ``run`` under way raises, a ``post`` is told."""


@runtime_checkable
class ShardFailure(Protocol):
    """The shape of the exception that the shards' border raises: the server's error, or one made for a lost link."""

    @property
    def fields(self) -> ErrorFields:
        """The error."""
        ...

    @property
    def raw(self) -> bytes | None:
        """The server's ErrorResponse as it came, if it is at hand."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the link is gone: nobody knows what the server did since it last answered."""
        ...

    @property
    def completed(self) -> bytes:
        """The tag that it has sent last for what was asked, b'' if none is known."""
        ...


def error_fields(error: Exception) -> ErrorFields | None:
    """Return what a shard or the proxy said, None for an exception that is neither's and therefore a bug."""
    if isinstance(error, ProxyError):
        return error.fields()
    return error.fields if isinstance(error, ShardFailure) else None


class Row(Protocol):
    """A row of a control query, by column name."""

    def __getitem__(self, key: str, /) -> Any:
        """Return a column's value."""
        ...


class ControlConnection(Protocol):
    """A plain connection of the control role: READ COMMITTED, synchronous_commit at least on, own lock_timeout."""

    async def execute(self, sql: str) -> str:
        """Run SQL and return the last command's tag."""
        ...

    async def execute_as(self, role: str, sql: str) -> str:
        """Run SQL as another role, in a message of its own, and return its tag."""
        ...

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Run one statement and return its rows."""
        ...

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Run one statement and return the first column of its first row, or None."""
        ...


class Control(Protocol):
    """Control connections by shard index; raises a ShardFailure or a ProxyError when there is none to be had."""

    def connection(self, shard: int) -> AbstractAsyncContextManager[ControlConnection]:
        """Check a connection out; one that was left inside a transaction or broke is not used again."""
        ...
