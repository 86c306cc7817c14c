"""What shards say of statements that are not run: asked once, and kept while the definitions stay as they are.

Decides which shard is asked, on which link, and for whom an answer may be kept. Left to others: what is asked over a
link (proxy.description), and when a statement is described (proxy.session).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from proxy.description import ask_description, describe_in
from proxy.isolation import SERIALIZABLE
from proxy.replica_reads import NotReplicatedError
from proxy.shards.errors import ShardError
from proxy.transaction import UNSEEN, ClientTransaction
from router.errors import refusal

if TYPE_CHECKING:
    from proxy.database import LogicalDatabase
    from proxy.description import Description
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink

DESCRIPTIONS: Final = 5_000  # kept, oldest out first


class Descriptions:
    """What the shards of one database have said of statements."""

    def __init__(self, database: LogicalDatabase) -> None:
        self._database = database
        self._known: OrderedDict[object, Description] = OrderedDict()

    def clear(self) -> None:
        """Forget all: the definitions have changed."""
        self._known.clear()

    def must_ask(self, session: Session, text: str, oids: tuple[int, ...]) -> bool:
        """Whether describing this statement needs a shard."""
        return self.known(session, text, oids) is None

    def known(self, session: Session, text: str, oids: tuple[int, ...]) -> Description | None:
        """Return what a shard has said of a statement, if it was asked, and would say it again."""
        if _sees_its_own(session) or self._database.definitions.altered_by_others(session):
            return None
        return self._known.get(_key(session, text, oids))

    async def ask(
        self, session: Session, text: str, oids: tuple[int, ...], *, reads: bool = True, locks: bool = False
    ) -> Description:
        """Return parameter types and columns as a real shard infers them; raises its error, as at Parse.

        ``reads``: Postgres takes a snapshot to parse it; ``locks``: it is asked in the session's own transaction, which
        keeps the locks that this takes.
        """
        known = None if locks else self.known(session, text, oids)
        if known is not None:
            return known
        key = _key(session, text, oids)
        database = self._database
        version, home = database.catalog_version, database.logical.home
        transaction = session.transaction
        shard = home if home in transaction.links else self.knowing_shard(session, text)
        own = _sees_its_own(session) and self._names_home(session, text)
        alone = not transaction.links and not own and not locks
        if alone and transaction.isolation == SERIALIZABLE:
            # It may use one shard only, and which one is not known yet.
            transaction = self._aside(session)
        try:
            description = await describe_in(transaction, shard, text, oids, reads=reads)
        except NotReplicatedError:
            if not alone:
                raise
            # The statement may be another shard's, which has replicas; what is asked here reads no rows.
            description = await describe_in(self._aside(session), shard, text, oids, reads=reads)
        if not _sees_its_own(session) and database.catalog_version == version:  # else it may be of before
            self._keep(key, description)
        return description

    async def ask_on(self, session: Session, link: ShardLink, text: str, oids: tuple[int, ...]) -> None:
        """Ask a link of the session's that has nothing under way, if nobody has; what is wrong is not told."""
        database = self._database
        if not self.must_ask(session, text, oids) or link.closed or _sees_its_own(session):
            return
        version = database.catalog_version
        try:
            description = await ask_description(link, text, oids)
        except ShardError:
            return
        if database.catalog_version == version:
            self._keep(_key(session, text, oids), description)

    def _keep(self, key: object, description: Description) -> None:
        self._known[key] = description
        if len(self._known) > DESCRIPTIONS:
            self._known.popitem(last=False)

    def _aside(self, session: Session) -> ClientTransaction:
        """Return a transaction with the session's settings, for a question that is none of its own."""
        return ClientTransaction(self._database, session.role, session.settings, len(self._database.logical.shards))

    def knowing_shard(self, session: Session, text: str | bytes) -> int:
        """Return a shard that has everything that a text names: home, or one that the transaction has used already."""
        shard, home = session.settings_shard, self._database.logical.home
        return home if shard != home and self._names_home(session, text) else shard

    def _names_home(self, session: Session, text: str | bytes) -> bool:
        """Whether a text names what home alone has; temporary relations of the session are among that."""
        if not self._database.has_catalog or not isinstance(text, str):
            return False
        planner = session.planner_in_block or self._database.planner
        return planner.names_home(text, session.search_path, temporary=_sees_its_own(session))

    async def let_a_shard_speak(self, session: Session, text: str | bytes, oids: tuple[int, ...] = ()) -> None:
        """Show a statement that we cannot read, or refuse, to a real shard by Parse only: its own error is the better.

        On the session's own link, which knows its settings and what its transaction has created. Returns when the shard
        has nothing against it. What a domain says of a constant may have been read off a part of the rows.
        """
        transaction = session.transaction
        shard = self.knowing_shard(session, text)
        links = await transaction.join([shard], writes=False, reads=True)
        try:
            await ask_description(links[shard], text, oids)
        except ShardError as error:
            if error.sqlstate == "23514" and self._database.catalog.checks_by_parts():
                raise refusal("domain-check") from error
            raise
        transaction.finish_statement()


def _key(session: Session, text: str, oids: tuple[int, ...]) -> object:
    settings = session.settings  # the names of columns are in the client's encoding
    return text, oids, session.role, session.search_path, settings.applied.statements, settings.encoding.codec


def _sees_its_own(session: Session) -> bool:
    """Whether a session may have definitions that no other has: of its open block, or temporary ones."""
    pins = session.transaction.pins
    own = any(reason == UNSEEN or reason.startswith("temporary") for reason in pins) if pins else False
    return own or session.planner_in_block is not None
