"""Fresh databases of one name on several servers, and their removal (prepared transactions included)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.demo.embedded import EmbeddedServer


def start_those_down(servers: Sequence[EmbeddedServer]) -> None:
    """Bring back what an earlier test stopped or killed."""
    for server in servers:
        if not server.running:
            server.start()


def create_databases(servers: Sequence[EmbeddedServer], name: str) -> list[str]:
    """Make a database on each server, side by side; return their DSNs in the servers' order."""
    start_those_down(servers)
    with ThreadPoolExecutor(max_workers=len(servers)) as threads:
        list(threads.map(lambda server: create_database(server, name), servers))
    return [server.dsn(name) for server in servers]


def create_database(server: EmbeddedServer, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def drop_databases(servers: Sequence[EmbeddedServer], name: str) -> None:
    """Drop a database on each server, whoever is connected and whatever is prepared there."""
    start_those_down(servers)
    with ThreadPoolExecutor(max_workers=len(servers)) as threads:
        list(threads.map(lambda server: drop_database(server, name), servers))


def drop_database(server: EmbeddedServer, name: str) -> None:
    # Postgres drops no database that has prepared transactions, and they can be ended in that database only.
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        # Somebody (a recovery that is still at work) may finish one between our look and our ROLLBACK.
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        while gids := [str(row[0]) for row in connection.execute(query)]:
            for gid in gids:
                try:
                    connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
                except psycopg.errors.UndefinedObject:
                    continue
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
