"""Which statements go out to one shard as the client wrote them, so that its answer is passed on as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.copied import as_it_came
from proxy.session.run import writes_of
from router.plan import Execution

if TYPE_CHECKING:
    from proxy.session.prepared import Portal
    from router.plan import Executable, Statement


def relayed_shard(executable: Executable, statement: Statement) -> int | None:
    """Return the shard when a statement goes out unchanged to one shard, else None."""
    if (
        not isinstance(executable, Execution)
        or len(executable.tasks) != 1
        or statement.audit is not None
        or statement.watched
    ):
        return None
    return as_it_came(executable, statement)


def writes_on_shard(portal: Portal) -> bool:
    """Whether a portal on a shard writes; SHOW and FETCH have nothing to execute that is not there already."""
    return portal.executable is not None and writes_of(portal.executable)
