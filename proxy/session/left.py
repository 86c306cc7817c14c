"""Portals that an error leaves behind, for what a block that has failed still listens to.

Postgres makes a portal before it reads a Bind's parameters and plans its statement, and before it runs a statement of a
simple query. Where that fails in a block, the portal stays: without a statement (its Execute says EmptyQueryResponse)
or with the one that has failed. Decided here: which of these it is, and what was there before a message that the shard
has skipped.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.description import Description
from proxy.errors import DUPLICATE_CURSOR
from proxy.session.prepared import Portal, PreparedStatement
from proxy.wire import frontend
from router.plan import Empty, Statement
from router.plan_control import Control, Prepared, PreparedControl, TransactionControl

if TYPE_CHECKING:
    from proxy.session.batch import Batch
    from proxy.session.session import Session

_EMPTY: Final = Statement(text="", plan=Empty(), tag="")
_EXITS: Final = frozenset({Control.COMMIT, Control.ROLLBACK, Control.ROLLBACK_TO, Control.PREPARE})


def without_statement(session: Session, name: bytes) -> Portal:
    """Return what a Bind leaves that has failed on its parameters or its plan."""
    return _portal(session, name, _EMPTY, Description((), None))


def of_failed(session: Session, statement: Statement) -> Portal:
    """Return the unnamed portal of a statement about the session itself that has failed in a simple query."""
    plan = statement.plan
    named = None
    if isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE:
        named = session.statements.get(plan.name.encode())
    portal = _portal(session, b"", statement, Description((), None if named is None else named.description.fields))
    if isinstance(plan, TransactionControl) and plan.control in _EXITS:
        # A block that has failed listens to it, and finds that it cannot be run once more.
        portal.in_failed, portal.ended = True, statement.tag.encode()
    return portal


def note_portal(session: Session, batch: Batch | None, name: bytes, portal: Portal | None) -> Portal | None:
    """Put a portal (None: none) in the place of the one of that name, which is returned.

    If what goes before it to the shard fails, Postgres has skipped the message that did it.
    """
    before = session.portals.pop(name, None)
    if portal is not None:
        session.portals[name] = portal
    if batch is not None and batch.script:
        batch.script[-1].undo_after.append(partial(_put, session, name, before))
    return before


def fails_with(session: Session, batch: Batch, portal: Portal) -> None:
    """Note what is left when the Bind that is the last message of a batch fails."""
    formats, fields = portal.bind.result_formats, portal.prepared.description.fields
    if len(formats) > 1 and len(formats) != len(fields or ()):
        return  # it fails on these, behind all else
    step, left = batch.script[-1], without_statement(session, portal.name)

    def undo() -> None:
        # A name that is taken is a cursor's, perhaps one that a function has opened: it has it still.
        is_taken = step.sqlstate == DUPLICATE_CURSOR
        _put(session, portal.name, None if is_taken else left)
        if is_taken:
            session.cursors.setdefault(portal.name.decode("utf-8", "surrogateescape"), batch.shard)

    step.undo = undo


def take_off_link(session: Session, statement: Statement) -> None:
    """Keep the unnamed portal of a definition that has run: its link was asked for the catalog since, and lost it."""
    portal = session.portals.get(b"")
    if portal is not None and portal.prepared.statement is statement and portal.shard is not None:
        portal.shard, portal.ended = None, statement.tag.encode()


def _put(session: Session, name: bytes, portal: Portal | None) -> None:
    session.portals.pop(name, None)
    if portal is not None:
        session.portals[name] = portal


def _portal(session: Session, name: bytes, statement: Statement, description: Description) -> Portal:
    prepared = PreparedStatement(b"", statement.text.encode("utf-8", "surrogateescape"), (), statement, description,
                                 session.database.catalog_version, session.search_path, ())  # fmt: skip
    bind = frontend.Bind(name, b"", (), (), ())
    return Portal(name, prepared, bind, None, inside=session.transaction.savepoints)
