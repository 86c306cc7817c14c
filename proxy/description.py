"""What a shard says about a statement without running it: the types of its parameters and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.shards.errors import ShardError
from proxy.wire import backend, frontend
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink
    from proxy.transaction import ClientTransaction
    from proxy.wire.backend import Field
    from router.plan_steps import Bound

_PLANNED: Final = b"pgchorus_planned"  # a portal of its own: the client's may be on the link


@dataclass(frozen=True, slots=True)
class Description:
    """What a shard answered to Describe: parameter types, and result columns (None: no rows)."""

    parameter_oids: tuple[int, ...]
    fields: tuple[Field, ...] | None


async def ask_description(link: ShardLink, text: str | bytes, oids: tuple[int, ...]) -> Description:
    """Parse and Describe on a link without executing anything; raises ShardError. ``text``: bytes go as they are."""
    query = link.encode(text) if isinstance(text, str) else text
    packet = (
        frontend.Parse(b"", query, oids).encode() + frontend.Describe(b"S", b"").encode() + frontend.Sync().encode()
    )
    parameters: tuple[int, ...] = ()
    fields = None
    for kind, body in await link.collect(packet):
        if kind == backend.ERROR_RESPONSE:
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))
        if kind == backend.PARAMETER_DESCRIPTION:
            parameters = backend.decode_parameter_description(body)
        elif kind == backend.ROW_DESCRIPTION:
            fields = backend.decode_row_description(body)
    return Description(parameters, fields)


async def describe_in(
    transaction: ClientTransaction, shard: int, text: str, oids: tuple[int, ...], *, reads: bool
) -> Description:
    """Ask a shard in a transaction; ``reads``: Postgres takes a snapshot to parse it. Raises as ``join`` does, too."""
    try:
        links = await transaction.join([shard], writes=False, reads=reads)
        return await ask_description(links[shard], text, oids)
    finally:
        transaction.finish_statement()


async def ask_plan(link: ShardLink, text: str, bound: Bound) -> None:
    """Let a shard plan a statement with its parameters, and execute nothing; raises ShardError.

    What is constant is computed then: Postgres says what is wrong with it also where there is no row.
    """
    packet = (
        frontend.Parse(b"", link.encode(text), bound.oids).encode()
        + frontend.Bind(_PLANNED, b"", bound.formats, bound.parameters, ()).encode()
        + frontend.Close(b"P", _PLANNED).encode()
        + frontend.Sync().encode()
    )
    for kind, body in await link.collect(packet):
        if kind == backend.ERROR_RESPONSE:
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))
