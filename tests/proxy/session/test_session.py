"""What the session does behind a client's back."""

from __future__ import annotations

from proxy.giving_way import _delivered
from proxy.shards.errors import lost_link


async def test_a_cancel_that_does_not_arrive_is_no_bug_of_ours() -> None:
    """It is logged in a line; the task that sent it does not die of it."""

    async def cancel() -> None:
        raise lost_link(0, "s0")

    await _delivered(cancel())
