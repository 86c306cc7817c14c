"""Which statements their one shard can have as the client wrote them; and COPY, which must have it so.

COPY FROM STDIN has no place in the executor's exchanges, which send no data: where it is looked at before and after
(:mod:`proxy.session.watched`), it is relayed in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.plan import Execution, Single

if TYPE_CHECKING:
    from router.plan import Executable, Statement


def copied_shard(executable: Executable, statement: Statement) -> int | None:
    """Return the shard of a COPY FROM STDIN that goes there unchanged, but is looked at before and after; else None."""
    watched = statement.watched and statement.tag == "COPY"
    return as_it_came(executable, statement) if watched and isinstance(executable, Execution) else None


def as_it_came(executable: Execution, statement: Statement) -> int | None:
    """Return the shard of an execution with one task if it gets the statement's own text, else None."""
    (task,) = executable.tasks
    if task.after or task.before or (task.text is not None and not isinstance(statement.plan, Single)):
        return None
    return task.shard
