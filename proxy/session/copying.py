"""Values for the columns that a COPY FROM leaves out, computed by the home shard while the rows come.

Decides on which link. While a COPY runs it has the transaction's own link to the home shard, so the values come from
another one, outside of the transaction; what they may be (sequences, functions that read no table) means the same
there. Not so when the transaction has made the sequence itself, or has changed settings: then the data is kept until
the client has sent all of it, and computed on the transaction's own link before the COPY begins there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.encodings import by_name, written
from proxy.errors import ProxyError
from proxy.session.filling import collect, compute, moment_parameter, packet_of
from proxy.transaction import ClientTransaction
from router.errors import refusal

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan_copy import CopyFill, CopyIn


class CopyValues:
    """See ``proxy.executor.copy_fill.Values``."""

    def __init__(self, session: Session, plan: CopyIn, fill: CopyFill) -> None:
        transaction = session.transaction
        self.parked = transaction.in_block and (transaction.catalog_changed or transaction.settings_changed)
        self.max_parked_bytes = session.database.merge_limits.max_parked_bytes
        self._session = session
        self._columns = fill.columns
        self._format = int(plan.format.format == "binary")
        self._encoding = (by_name(plan.format.encoding) or session.encoding) if not self._format else session.encoding
        self._each = tuple(column.value for column in fill.columns if column.each)
        self._moments = [moment_parameter(session, moment) for moment in fill.moments]
        self._once: list[bytes | None] = []
        self._beside: ClientTransaction | None = None
        self._link: ShardLink | None = None

    @classmethod
    async def of(cls, session: Session, plan: CopyIn, fill: CopyFill) -> CopyValues:
        """Return the values of a COPY, with the link that it needs: taken before the COPY takes those of its own."""
        values = cls(session, plan, fill)
        if values._each and not values.parked:
            home, count = session.database.logical.home, session.transaction.shard_count
            values._beside = ClientTransaction(session.database, session.role, session.settings, count)
            values._link = (await values._beside.join([home], writes=False))[home]
        return values

    async def begin(self) -> None:
        """Compute what is the same in all rows."""
        texts = tuple(column.value for column in self._columns if not column.each)
        self._once = await self._computed([texts], None) if texts else []

    async def rows(self, count: int) -> list[list[bytes | None]]:
        """Return the values of the next ``count`` rows."""
        each = iter(await self._computed([self._each] * count, self._link) if self._each else ())
        found = []
        for _ in range(count):
            once = iter(self._once)
            found.append([next(each if column.each else once) for column in self._columns])
        return found

    async def _computed(self, rows: list[tuple[str, ...]], link: ShardLink | None) -> list[bytes | None]:
        if link is None:
            found = await compute(self._session, rows, self._moments, self._format)
        else:
            found = await collect(link, packet_of(self._session, rows, self._moments, self._format))
        return [self._recoded(value.data) for value in found]

    def _recoded(self, data: bytes | None) -> bytes | None:
        """Return a value, which is in the client's encoding, in that of the data."""
        own, wanted = self._session.encoding, self._encoding
        if data is None or data.isascii() or own.codec == wanted.codec:
            return data
        try:
            return written(own.heard(data), wanted.codec)
        except ProxyError as error:
            raise refusal("client-encoding-shards", value=wanted.name) from error

    def end(self) -> None:
        """Give the link back."""
        if self._beside is not None:
            self._beside.finish_statement()
        self._beside = self._link = None
