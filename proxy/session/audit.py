"""The audit of a statement that nobody could see through: which relations it has touched on its shard.

Decides, from what Postgres itself says before and after, whether rows of other shards would have been meant as well;
then the statement is an error, which takes it back with its transaction. Which statements are audited is the router's
affair (:mod:`router.planner.auditing`).

Three witnesses, because each is blind where another sees:

- *Locks* (pg_locks) stay until the transaction ends, also those of reads, and tell of TRUNCATE and LOCK; but one that
  was there before the statement says nothing, and those of a subtransaction that was rolled back (an EXCEPTION block)
  are gone.
- *Counters* (pg_stat_get_xact_...) tell of scans and written rows whatever became of them, but not of TRUNCATE. The
  server adds them up between transactions only, so inside of one they never go back.
- *Strays*: a row that a sharded table's CHECK has kept out, as it belongs to another shard, was not written. Code may
  catch that error; but the CHECK counts it (``pgchorus.strays``). Of another session's strays at the same time nobody
  knows whose they are: these are an error too.

Neither sees TABLESAMPLE or a look at single ctids in dynamic SQL that finds no row, when the locks tell nothing.
That definitions have changed is told by the lock on ``pgchorus.catalog_change``, which an event trigger writes to.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from proxy.encodings import by_name
from proxy.giving_way import past_cancels
from proxy.session import leftovers
from proxy.session.temporary import NAMES, PINNED
from proxy.shards.errors import ShardError
from proxy.transaction import IN_BLOCK
from router.catalog import OWN_SCHEMA
from router.cluster import Home, Reference, TableName
from router.errors import refusal
from router.functions import custom_settings_in
from router.own_schema import SLOT_CONSTRAINT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.encodings import Encoding
    from proxy.session.leftovers import Leftovers
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.catalog import Catalog
    from router.plan import Statement

log = structlog.get_logger("pgchorus.session")

# Every name is qualified: the client's search_path is in force. Relations that somebody else has made since our
# snapshot are in pg_locks and not in pg_class: they come without a name.
_LOOK: Final = """SELECT n.nspname, c.relname, c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema(),
 s.reads, s.writes, l.modes, pg_catalog.current_setting('track_counts'), t.strays
FROM (SELECT k.relation, pg_catalog.string_agg(k.mode, ',') AS modes FROM pg_catalog.pg_locks k
  WHERE k.locktype OPERATOR(pg_catalog.=) 'relation' AND k.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
   AND k.relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid GROUP BY k.relation) l
 FULL JOIN (SELECT * FROM pg_catalog.pg_class r WHERE r.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid) c
  ON c.oid OPERATOR(pg_catalog.=) l.relation
 LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 CROSS JOIN (SELECT last_value OPERATOR(pg_catalog.+) is_called::pg_catalog.int4 AS strays FROM pgchorus.strays) t
 CROSS JOIN LATERAL (SELECT pg_catalog.pg_stat_get_xact_numscans(c.oid)
   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_returned(c.oid)
   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_fetched(c.oid)
   OPERATOR(pg_catalog.+) coalesce((SELECT pg_catalog.sum(pg_catalog.pg_stat_get_xact_numscans(i.indexrelid))
     FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid), 0) AS reads,
  pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)
   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) AS writes) s
WHERE c.oid IS NULL OR c.oid OPERATOR(pg_catalog.=) 'pgchorus.strays'::pg_catalog.regclass::pg_catalog.oid
 OR (c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,f}'::pg_catalog."char"[])
 AND (l.relation IS NOT NULL OR s.reads OPERATOR(pg_catalog.>) 0 OR s.writes OPERATOR(pg_catalog.>) 0))"""
_CHANGES: Final = TableName(OWN_SCHEMA, "catalog_change")
_STRAYS: Final = TableName(OWN_SCHEMA, "strays")
_WRITING: Final = frozenset({"RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
                             "ExclusiveLock", "AccessExclusiveLock"})  # fmt: skip
_ENDED: Final = "2D000"  # invalid transaction termination
_STRONGEST: Final = "AccessExclusiveLock"


@dataclass(frozen=True, slots=True)
class Touched:
    """What a transaction has done so far to one relation: scans and rows read, rows written, locks held."""

    reads: int = 0
    writes: int = 0
    modes: frozenset[str] = frozenset()
    temporary: bool = False

    def writes_since(self, before: Touched) -> bool:
        """Whether rows were written, or could have been."""
        return self.writes > before.writes or bool((self.modes - before.modes) & _WRITING)

    def since(self, before: Touched) -> bool:
        """Whether anything was done."""
        return self.reads > before.reads or self.writes > before.writes or bool(self.modes - before.modes)


_UNTOUCHED: Final = Touched()


class Audit:
    """One statement's, on the home shard: made before it runs, ended when it has run and before it is committed."""

    def __init__(
        self,
        session: Session,
        statement: Statement,
        link: ShardLink,
        before: Mapping[TableName, Touched],
        left_before: Leftovers,
    ) -> None:
        self.alone = False  # in a block that is there for this audit
        self._session = session
        self._named = statement.audit or frozenset()
        self._link = link
        self._before = before
        self._left_before = left_before
        self._resettable = link.resettable
        # What it has set is taken back with its transaction, but a custom setting that was NULL is '' from then on.
        link.resettable = False

    @classmethod
    async def begin(cls, session: Session, statement: Statement, *, alone: bool) -> Audit:
        """Look before the statement. The transaction is in a block: what comes after belongs to it.

        ``alone``: one Postgres would run it outside of any.
        """
        home = session.database.logical.home
        link = (await session.transaction.join([home], writes=True))[home]
        link.dirty = True  # an error takes back rows, and not what was prepared or locked for the session
        before = await _look(link, session.encoding)
        catalog = _catalog(session)
        for name, touched in before.items():
            if _STRONGEST in touched.modes and not touched.temporary and not _is_home(catalog, name):
                # Another TRUNCATE would not show.
                raise refusal("audit-blind", reason=f"this transaction has locked {name} exclusively before")
        # Those end with a statement that is alone.
        texts = {name.lower() for name in custom_settings_in(statement.text)}
        custom = frozenset() if alone else catalog.custom_settings | texts | session.settings.custom.keys()
        audit = cls(session, statement, link, before, await leftovers.look(link, custom))
        audit.alone = alone
        return audit

    async def end(self) -> None:
        """Look after the statement; raises Refused when it has touched what the home shard has only a part of."""
        session = self._session
        after = await _look(self._link, session.encoding)
        catalog = _catalog(session)
        for name, touched in after.items():
            before = self._before.get(name, _UNTOUCHED)
            is_copy = isinstance(catalog.table_placement(name), Reference) and not touched.temporary
            if not touched.since(before):
                continue
            if is_copy and touched.writes_since(before):
                # Also if the statement names it: what may be tried here reads reference tables only.
                raise refusal("audit-copy", table=str(name))
            if is_copy or name in self._named:
                continue
            if touched.temporary:
                home = session.database.logical.home
                session.transaction.pin(PINNED, [home])
                session.transaction.must_commit[home] = PINNED
            elif name == _CHANGES:
                raise refusal("audit-definition")
            elif name == _STRAYS:
                raise refusal("audit-touched", table="a sharded table")
            elif name.schema == OWN_SCHEMA or _is_home(catalog, name):
                continue
            else:
                raise refusal("audit-touched", table=str(name))
        await self._check_temporary(catalog)
        await self._end_session_state()
        self._link.resettable = self._resettable

    def failed(self) -> None:
        """The statement has: what it has locked for the session stays locked, and shows when the rest is undone."""
        self._session.transaction.at_undoing = self._keep_locks

    async def _keep_locks(self) -> None:
        transaction, link = self._session.transaction, self._link
        if link.closed:
            return
        try:
            async with past_cancels(transaction):
                left = await leftovers.advisory_locks(link)
        except ShardError as error:
            log.info("a link did not tell what it has locked", shard=link.name, error=str(error))
            link.abort()  # whatever it is must not be the next client's
            return
        # Behind a savepoint those of the transaction are still there.
        if left > (self._left_before.advisory_locks if link.status == ord(IN_BLOCK) else 0):
            transaction.pin("advisory locks", [self._session.database.logical.home])

    async def _check_temporary(self, catalog: Catalog) -> None:
        """Refuse temporary relations that hide lasting ones: what comes after would mean the wrong rows."""
        for (name,) in (await self._link.run(NAMES)).rows:
            hidden = catalog.hidden_by(self._session.encoding.heard(name or b""))
            if hidden is not None:
                raise refusal("temporary-hides", table=str(hidden))

    async def _end_session_state(self) -> None:
        session, before = self._session, self._left_before
        after = await leftovers.look(self._link, before.custom)
        changed = after.changed(before)
        if changed:
            raise refusal("audit-session", what=changed)
        if after.advisory_locks > before.advisory_locks:
            session.transaction.pin("advisory locks", [session.database.logical.home])
        for setting, value in self._link.parameters.items():
            session.on_parameter(setting, value)  # what it has set, if anything


@contextmanager
def errors_told(audit: Audit | None) -> Iterator[None]:
    """Around an audited statement: say what an error of the shard means that comes of how it is run here.

    A row that a CHECK keeps out belongs to another shard: its table was touched. COMMIT and ROLLBACK in DO are errors
    in a block.
    """
    try:
        yield
    except ShardError as error:
        if audit is not None:
            audit.failed()
        if audit is not None and error.fields.get("n") == SLOT_CONSTRAINT:
            table = TableName(error.fields.get("s"), error.fields.get("t"))
            raise refusal("audit-touched", table=str(table)) from error
        if audit is not None and audit.alone and error.sqlstate == _ENDED:
            raise refusal("audit-end") from error
        raise


def _catalog(session: Session) -> Catalog:
    planner = session.planner_in_block or session.database.planner
    return planner.catalog


def _is_home(catalog: Catalog, name: TableName) -> bool:
    return isinstance(catalog.table_placement(name), Home)


async def _look(link: ShardLink, encoding: Encoding) -> dict[TableName, Touched]:
    found: dict[TableName, Touched] = {}
    rows = (await link.run(_LOOK)).rows
    if by_name(link.parameters.get("client_encoding", "")) is not encoding:
        raise refusal("audit-blind", reason="the statement has changed client_encoding")
    for schema, name, temporary, reads, writes, modes, counting, strays in rows:
        if counting != b"on":
            raise refusal("audit-blind", reason="the server does not count (track_counts)")
        if schema is None or name is None:
            raise refusal("audit-blind", reason="it has locked a relation that was made meanwhile")
        held = frozenset(modes.decode().split(",")) if modes else frozenset()
        table = TableName(encoding.heard(schema), encoding.heard(name))
        if table == _STRAYS:
            found[table] = Touched(writes=int(strays or 0))
            continue
        found[table] = Touched(int(reads or 0), int(writes or 0), held, temporary == b"t")
    return found
