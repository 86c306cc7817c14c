"""What waited for a change of definitions, and means something else by them, is run once more, as Postgres plans anew.

Theory of operation. Such statements are ended before the change is committed (proxy.session.changing), while they wait
for its locks. Postgres would plan them when they have these; so do we, where nobody can tell that they had begun: their
transaction is undone, and the client's messages since the last Sync go back into its inbox, to be handled as if they
had just come. That is so where

1. the client has heard nothing since then but the session's own answers to Parse, Bind, Describe and Close. These are
   not said again: if they were others now, the statement ends with 40001;
2. no block was open, or one in which no shard had a part yet;
3. all that was under way are statements that a rollback undoes: no COPY, CALL, DO, nothing that keeps a link.

Everything else is told 40001, and so is who has begun anew too often. A cancel of the client's own is 57014.

Decides what is run once more. Who must be, and when, is proxy.session.changing's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.bringing import leave_links
from proxy.errors import QUERY_CANCELED, DefinitionsChangedError, ProxyError, definitions_changed
from proxy.shards.errors import ShardError
from proxy.transaction import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from proxy.transaction import ClientTransaction
    from proxy.wire.fields import ErrorFields
    from router.plan import Statement

ATTEMPTS: Final = 5  # of one statement, by new definitions each
_MOST_MESSAGES: Final = 256
_MOST_BYTES: Final = 1 << 20
_TAGS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"})
_PARSE, _CLOSE, _UNIT_ENDS = ord("P"), ord("C"), frozenset(b"QSF")
_BEFORE_EXECUTE: Final = frozenset(b"123tTn")  # the first bytes of answers to Parse, Bind, Close and Describe


class Outrun(Exception):  # noqa: N818 - not an error: nothing has happened
    """What the client has sent since the last Sync is to be run once more; it has not been told of the end."""


class Anew:
    """The messages of one session since the last Sync, and what was said to them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._messages: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._statements: dict[bytes, PreparedStatement | None] = {}  # as they were, of those that were parsed
        self._fresh = False  # it begins where a rollback can lead back to
        self._block = Block.NONE  # that was open then
        self._written = 0  # to the client, by then
        self._told = b""  # of that: what is not said again
        self._owed = b""  # what has been said before
        self._attempts = 0
        self._repeats = False
        self.pending = False  # the transaction is still as it was when its statement was ended
        self.unwanted = False  # the client has cancelled it

    # --- what the client says -----------------------------------------------------------------------------------

    def comes(self, kind: int, body: bytes) -> None:
        """Note a message that is about to be handled."""
        if not self._messages:
            self._begins()
        if len(self._messages) == _MOST_MESSAGES or self._bytes + len(body) > _MOST_BYTES:
            self._fresh = False
        if not self._fresh:
            self._messages = [(kind, b"")]
            return
        self._messages.append((kind, body))
        self._bytes += len(body)
        if kind == _PARSE or (kind == _CLOSE and body[:1] == b"S"):
            name = body[kind == _CLOSE :].split(b"\0", 1)[0]
            self._fresh = name.isascii()
            self._statements.setdefault(name, self._session.statements.get(name))

    def _begins(self) -> None:
        session, transaction = self._session, self._session.transaction
        if not self._repeats:
            self._attempts, self._owed, self.unwanted = 0, b"", False
        self._repeats = False
        self._block = transaction.block
        self._fresh = not (transaction.links or transaction.failed or session.portals or session.cursors)
        self._fresh = self._fresh and transaction.shard_count > 1
        self._told, self._bytes = b"", 0
        self._written = session.connection.written
        self._statements.clear()

    def over(self, kind: int) -> None:
        """A message has been handled; with some kinds nothing remains of what came before."""
        if kind in _UNIT_ENDS and not self._repeats:
            self._messages = []

    # --- what it is told ------------------------------------------------------------------------------------------

    def reply(self, frame: bytes) -> None:
        """Write an answer of the session's own, if it has not been said before. Raises ProxyError 40001 for another."""
        if self._owed:
            if not self._owed.startswith(frame):
                self._owed, self._attempts = b"", ATTEMPTS
                raise definitions_changed()
            self._owed = self._owed[len(frame) :]
            self._told += frame
            self._written -= len(frame)  # it was written before
            return
        if self._fresh and frame[0] in _BEFORE_EXECUTE:
            self._told += frame
        self._session.write(frame)

    def is_news(self, frame: bytes) -> bool:
        """Whether an answer that a shard will give has not been given before. Raises ProxyError 40001 for another."""
        if self._owed:
            self.reply(frame)
            return False
        return True

    @property
    def owes(self) -> bool:
        """Whether there are answers that have been given before, and are to be those that come now."""
        return bool(self._owed)

    # --- when it has been ended -----------------------------------------------------------------------------------

    def takes(self, error: ErrorFields | ShardError | ProxyError) -> bool:
        """Whether the client need not hear of an error: what it said is run once more."""
        return self._session.outrun and error.sqlstate == QUERY_CANCELED and self._may(self._session.running)

    def raise_if_outrun(self, error: Exception) -> None:
        """Raise Outrun in an error's place, where the client need not hear of it."""
        if isinstance(error, DefinitionsChangedError):
            outrun = self._may(self._session.running or None)
        else:
            outrun = isinstance(error, ShardError | ProxyError) and self.takes(error)
        if outrun:
            raise Outrun from error

    def takes_in_lane(self, statement: Statement, *, first: bool) -> bool:
        """Whether a statement of the lane, which has been told nothing, is left to the long road, to be run once more.

        ``first``: no shard had a part in its transaction before.
        """
        self._attempts, self._owed = 0, b""
        nothing_open = not self._session.cursors and self._session.portals.keys() <= {b""}
        return first and nothing_open and self._is_wanted and _undone_by_rollback([statement])

    def leaves_lane(self) -> None:
        """Its message is back in the inbox."""
        self._messages = []
        self._repeats = self.pending = True
        self._block = self._session.transaction.block

    @property
    def _is_wanted(self) -> bool:
        session = self._session
        return not (self.unwanted or session.killed or session.connection.gone)

    def _may(self, running: Sequence[Statement] | None) -> bool:
        """Whether nobody can tell that it had begun. ``running``: None where it had not."""
        session, block = self._session, self._session.transaction.block
        return (
            self._fresh
            and self._attempts < ATTEMPTS
            and self._is_wanted
            and (block is self._block or block is Block.IMPLICIT)
            and not self._owed
            and session.connection.written == self._written + len(self._told)
            and (running is None or _undone_by_rollback(running))
        )

    async def again(self) -> None:
        """Put the messages back into the inbox, with all undone that was done for them."""
        session = self._session
        messages, self._messages = self._messages, []
        self._owed = self._told
        self._attempts += 1
        self._repeats = True
        await self.undo()
        for name, before in self._statements.items():
            session.statements.pop(name, None)
            if before is not None:
                session.statements[name] = before
        session.connection.push_back(messages)

    async def undo(self) -> None:
        """Have the transaction as it was before."""
        self.pending = False
        session, transaction = self._session, self._session.transaction
        session.running = ()
        for portal in session.portals.values():
            await portal.close()
        session.portals.clear()
        if self._block is Block.EXPLICIT:
            await leave_links(transaction)
            _forget_shards(transaction)
        elif transaction.in_block:
            await session.rollback()
        transaction.finish_statement()
        transaction.deadlock, session.outrun = None, False
        if self.unwanted:  # the client's cancel has found nothing that runs
            transaction.refused = ProxyError(QUERY_CANCELED, "canceling statement due to user request")


def _forget_shards(transaction: ClientTransaction) -> None:
    """No shard has a part in an open block any more."""
    transaction.touched.clear()
    transaction.writers.clear()
    transaction.settings_sent.clear()
    transaction.failed = transaction.doomed = transaction.locks_released = False
    transaction.snapshot_fixed = transaction.locked_tables = False
    if transaction.identity is not None:
        transaction.database.forget(transaction)
        transaction.identity = None


def _undone_by_rollback(statements: Sequence[Statement]) -> bool:
    """Whether a rollback leaves nothing of some statements, and does so by itself."""
    return bool(statements) and all(
        one.tag in _TAGS and not (one.pins or one.must_commit or one.set_config or one.watched or one.audit)
        for one in statements
    )
