"""What a definition says that needs something which only the home shard has.

Decides which errors of other shards mean that, where home has just done the same, and what the client hears of them.
Where definitions go is the planner's, see :mod:`router.planner.dependent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.errors import Refused, refusal

if TYPE_CHECKING:
    from proxy.shards.errors import ShardError

#: An object, relation or function that is not there, and what depends on one that shall be dropped.
_LACKING: Final = frozenset({"42704", "42P01", "42883", "2BP01"})


def is_lacking(error: ShardError) -> bool:
    """Whether a shard says that something is not there."""
    return not error.lost and error.sqlstate in _LACKING


def told_of(error: ShardError) -> ShardError | Refused:
    """Return what is said of an error of another shard, after home has had none."""
    if not is_lacking(error):
        return error
    return refusal("home-alone", detail=f"Another shard says: {error.message}.")
