"""What one session notes of its statements for traces (proxy.tracing); there is one only where these are switched on.

Decides what becomes a span: the statement, its planning, each shard's answers, and of a COMMIT the rounds. A statement
without a context of its own in a block belongs to the one before it: COMMIT has none.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from proxy.tracing import Exchange, Span, rounds

if TYPE_CHECKING:
    from proxy.admin.statements import Tally
    from proxy.session.session import Session
    from proxy.tracing import Tracing

#: Of one statement; a cursor over many rows, or a COPY, may have any number.
_MOST_EXCHANGES: Final = 256


class Traced:
    """One session's notes."""

    def __init__(self, session: Session, tracing: Tracing) -> None:
        self._session = session
        self._tracing = tracing
        self._exchanges: list[Exchange] = []
        self._of_block: Any = None  # the context of the statement before, in the same block
        session.transaction.watcher = self.heard

    def heard(self, shard: str, asked_at: float, took: float) -> None:
        """A shard has answered."""
        if len(self._exchanges) >= _MOST_EXCHANGES:
            del self._exchanges[0]
        self._exchanges.append(Exchange(shard, asked_at, took))

    def ended(  # noqa: PLR0913 - what there is to say
        self, tally: Tally | None, text: str, begun: float, planned: float, *, rows: int = 0, error: str = ""
    ) -> None:
        """A statement has ended; ``planned``: when its planning had, 0 where there was none."""
        now = monotonic()
        parent = self._tracing.parent_of(text)
        if parent is None:
            parent = self._of_block
        session = self._session
        self._of_block = parent if session.transaction.in_block else None
        exchanges = [one for one in self._exchanges if one.asked_at >= begun]
        self._exchanges.clear()
        shown = "" if tally is None else tally.text
        word = shown.partition(" ")[0].upper()
        parts = [Span("plan", begun, planned, {})] if planned else []
        commits = word in {"COMMIT", "END"}
        for number, one in rounds(exchanges):
            name = f"{'commit ' if commits else ''}{one.shard}"
            about: dict[str, str | int] = {"pgchorus.shard": one.shard, "pgchorus.round": number}
            parts.append(Span(name, one.asked_at, one.asked_at + one.took, about))
        whole: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.namespace": session.database.logical.name,
            "db.query.text": shown,
            "db.operation.name": word,
            "db.response.returned_rows": rows,
            "pgchorus.tier": "" if tally is None else tally.tier,
            "pgchorus.user": session.role,
            "client.address": session.connection.host,
        }
        self._tracing.record(Span(word or "statement", begun, now, whole), parts, parent, error)

    def ended_in_lane(self, tally: Tally, seconds: float, shard: str) -> None:
        """A statement of the lane has ended; '' for ``shard``: its links have told of all that was asked."""
        if shard and not self._exchanges:
            self._exchanges.append(Exchange(shard, monotonic() - seconds, seconds))
        begun = min((one.asked_at for one in self._exchanges), default=monotonic() - seconds)
        self.ended(tally, "", begun, 0.0)

    def forget(self) -> None:
        """What was asked had to do with no statement."""
        self._exchanges.clear()
