"""What happens when another one of a shard's servers has become its primary, and how that is noticed.

In this order, and why:

1. The shard counts as down: nobody gets a link, and what stands open elsewhere goes on.
2. Every link to the old primary is closed, those in the middle of a statement as well. It may still run and take
   writes; whoever is told of a commit there would find it nowhere. Transactions end as by a crash (08006); a COMMIT
   whose outcome is not known asks the new primary.
3. The probe that follows finds the new primary. Before the shard is up, its placements are compared and what is
   decided is finished there (``ShardHealth.on_return``).

A promotion that nobody told the proxy of, while the old primary lives, is noticed by looking at all hosts every
``failover.check_s``. One that follows a crash is noticed by the loss of the links.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.errors import CANNOT_CONNECT_NOW
from proxy.shards.errors import ShardError
from proxy.tasks import spawn
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.shards.control import ControlLinks
    from proxy.shards.finder import Finder
    from proxy.shards.health import ShardHealth
    from proxy.shards.pool_set import PoolSet
    from proxy.shards.replicas import Replicas

_log = logging.getLogger(__name__)


class Failover:
    """Carries a move out in one process."""

    def __init__(
        self, health: ShardHealth, pools: Iterable[PoolSet | Replicas], compare_again: Callable[[int], None]
    ) -> None:
        self._health = health
        self._pools = tuple(pools)
        self._compare_again = compare_again

    def moved(self, shard: int) -> None:
        """Another server is the primary of a shard now."""
        message = "another server has become the primary of this shard"
        error = ShardError(ErrorFields.make("ERROR", CANNOT_CONNECT_NOW, message), shard, lost=True)
        self._compare_again(shard)
        self._health.failed(shard, error)
        for pools in self._pools:
            pools.drop(shard)


def watch_hosts(
    control: ControlLinks, health: ShardHealth, every_s: float, *, since: int = 0
) -> list[asyncio.Task[None]]:
    """Start to look now and then at the hosts of each shard (``since`` one) that has several; until cancelled."""
    finders = {shard: finder for shard in range(since, len(control)) if (finder := control.finder(shard)) is not None}
    return [
        spawn(_watch(shard, finder, health, every_s), name=f"watch the hosts of {finder.endpoint.name}")
        for shard, finder in finders.items()
    ]


async def _watch(shard: int, finder: Finder, health: ShardHealth, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await finder.find()
        except ShardError as error:
            health.failed(shard, error)
        except Exception:  # noqa: BLE001 - a bug must not end all looking: promotions would go unnoticed from then on
            _log.exception("looking at the hosts of shard %s failed", finder.endpoint.name)
