"""What is prepared on a shard, and what was decided about it: what recovery, settling and the fence look at.

Only reads. A prepared transaction whose name is not of our cluster, or names another shard than the one it is on, is
nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.twophase import record
from proxy.twophase.finish import Part
from proxy.twophase.gid import GlobalId, cluster_prefix, parse_participant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.twophase.participant import ControlConnection


@dataclass(frozen=True, slots=True)
class Pending:
    """A prepared part of one of our transactions. ``low_xid`` is the 32-bit xid, ``age_s`` by the shard's own clock."""

    shard: int
    name: str
    gid: GlobalId
    low_xid: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision row. ``xids`` are by participant's name; empty for an abort."""

    committed: bool
    xids: dict[str, int]

    def part(self, pending: Pending, shard_name: str) -> Part | None:
        """Return what is to be finished, None when the record does not know this part: it must not be touched."""
        if not self.committed:
            return Part(pending.shard, pending.name, None, seen=True)
        xid = self.xids.get(shard_name)
        return None if xid is None else Part(pending.shard, pending.name, xid, seen=True)


async def list_pending(connection: ControlConnection, shard: int, names: Sequence[str], cluster: str) -> list[Pending]:
    """Return our prepared parts on a shard, oldest first."""
    found = []
    for row in await connection.fetch(record.LIST_PREPARED, cluster_prefix(cluster)):
        parsed = parse_participant(row["gid"])
        if parsed is not None and parsed[0].cluster == cluster and parsed[1] == names[shard]:
            found.append(Pending(shard, row["gid"], parsed[0], int(row["xid"]), row["age"]))
    return found


async def read_decisions(connection: ControlConnection, gids: Iterable[GlobalId]) -> dict[GlobalId, Decision]:
    """Return the decisions that stand at a commit point; nothing for a gid means that nothing is decided there."""
    by_text = {str(gid): gid for gid in gids}
    decisions = {}
    for row in await connection.fetch(record.READ_DECISIONS, list(by_text)):
        xids = {name: record.parse_xid(xid) for name, xid in zip(row["participants"], row["xids"], strict=True)}
        decisions[by_text[row["gid"]]] = Decision(row["outcome"] == "commit", xids)
    return decisions
