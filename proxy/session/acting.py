"""Doing a part of a statement's work as another role, and with another search_path, as Postgres does inside one.

Decides how all links of a transaction come to that and back, also those that join meanwhile.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from proxy.links import Replay
from proxy.settings import set_config_sql

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink

_NOW: Final = "SELECT pg_catalog.current_setting('role'), pg_catalog.current_setting('search_path')"


@asynccontextmanager
async def acting(
    session: Session, link: ShardLink, role: str, path: str, *, before: bool = False
) -> AsyncIterator[None]:
    """Do what follows as ``role`` ('': as it is) and with ``path`` as the search_path; ``link`` has joined.

    ``before``: the search_path that there is comes behind ``path``. An error leaves the links as they are: all ends
    with the transaction, or with the savepoint that it goes back to. Requires a block.
    """
    transaction = session.transaction
    (row,) = (await link.run(_NOW)).rows
    old_role, old_path = (session.encoding.heard(value or b"") for value in row)
    new_path = ", ".join(filter(None, [path, old_path if before else ""]))
    become = _settings(role or old_role, new_path)
    replay = Replay(become, codec=session.settings.encoding.codec)
    transaction.settings_changed = True
    transaction.log.append(replay)
    try:
        await transaction.everywhere(become)
        yield
    finally:
        transaction.log = [entry for entry in transaction.log if entry is not replay]
    await transaction.everywhere(_settings(old_role, old_path))


def _settings(role: str, path: str) -> str:
    return "; ".join([set_config_sql("role", role, local=True), set_config_sql("search_path", path, local=True)])
