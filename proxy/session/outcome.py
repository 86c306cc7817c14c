"""What a handler tells the loop besides its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.plan import Statement


class Reported(Exception):  # noqa: N818 - not an error of ours: the shard's own was passed on already
    """The statement failed and the client has been told, by frames passed on from the shard."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class RolledBack(Exception):  # noqa: N818 - what COMMIT came to; Postgres answers it with a tag, not with an error
    """COMMIT of a transaction that a shard had already failed: answered ``ROLLBACK``."""


@dataclass(slots=True)
class Fate:
    """What has become of a Query: the number of its statement that runs, or that has failed, from 0.

    ``control``: that statement, if it is one about the session itself. ``reported``: the shard that ran it has said
    what is wrong with it; ``unplanned``: it never ran. ``outside``: Postgres had no block before it, though we may have
    one, of what has been bound and not executed.
    """

    number: int = 0
    reported: bool = False
    unplanned: bool = False
    control: Statement | None = None
    outside: bool = False
