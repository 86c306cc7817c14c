"""Plans for statements: one file per kind of statement, tried cheapest first.

Decides which planner reads a statement, and nothing else. A kind that no planner knows is refused where several
shards could answer it differently. Over one shard every statement goes out as it came; what concerns the session is
classified all the same.
"""

from router.planner.base import Planner

__all__ = ["Planner"]
