"""A shard of two servers: a primary, and a standby that streams from it; and how they change places.

The standby is a ``pg_basebackup`` of the primary, so both have one system identifier, as in real life.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg

from ledger import eventually
from proxy.demo.embedded import HOST, SUPERUSER, EmbeddedServer

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {
    "full_page_writes": "on",
    "wal_keep_size": "64MB",
    "wal_receiver_status_interval": "1",
    "wal_retrieve_retry_interval": "100ms",
}
STREAMING = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"


def copy_of(primary: EmbeddedServer, directory: Path) -> EmbeddedServer:
    """Make a standby of a running server and start it; it streams when this returns."""
    standby = EmbeddedServer(directory, durable=False, settings=SETTINGS)
    directory.mkdir(mode=0o700)
    account = standby._account
    if account is not None:
        os.chown(directory, account.uid, account.gid)
    options = ["--dbname", f"host={HOST} port={primary.port} user={SUPERUSER} application_name={directory.name}"]
    backup = standby._spawn("pg_basebackup", [*options, "-R", "--checkpoint=fast", "--no-sync"], directory)
    assert backup.wait(60) == 0, standby.log.read_text()
    standby.start()
    eventually(lambda: asked(primary, STREAMING), "no standby streams")
    return standby


def asked(server: EmbeddedServer, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


class ReplicatedShard:
    """``primary`` and ``standby`` of this moment; ``hosts`` are both, in an order that does not change."""

    def __init__(self, directory: Path) -> None:
        self.primary = EmbeddedServer(directory / "first", durable=False, settings=SETTINGS)
        self.primary.start()
        self.standby = copy_of(self.primary, directory / "copy")
        self.hosts = (self.primary, self.standby)

    def dsn(self, database: str) -> str:
        """Return the DSN with both hosts, the first one first."""
        hosts = ",".join(f"{HOST}:{server.port}" for server in self.hosts)
        return f"postgres://{SUPERUSER}@{hosts}/{database}?target_session_attrs=read-write"

    def wait_for_standby(self) -> None:
        """Let COMMIT on the primary wait until the standby has the WAL, as an operator must."""
        self.configure(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        eventually(
            lambda: asked(self.primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
            "none is in sync",
        )

    def configure(self, server: EmbeddedServer, command: str) -> None:
        """Have a server go by another setting."""
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(command.encode())
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make the standby the primary, whatever the old one does."""
        asked(self.standby, "SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def caught_up(self) -> bool:
        """Whether the standby has replayed everything that is durable on the primary so far."""
        ((lsn,),) = asked(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        return bool(asked(self.standby, f"SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{lsn}'"))

    def follow(self) -> None:
        """Have what was the primary begin again as a standby of the new one (by pg_rewind)."""
        old, new = self.standby, self.primary
        if not old.running:
            old.start()  # pg_rewind wants one that was shut down in peace
        old.stop()
        source = f"host={HOST} port={new.port} user={SUPERUSER} dbname=postgres"
        rewind = old._spawn("pg_rewind", ["--source-server", source, "-R", "--no-sync"], old.directory)
        assert rewind.wait(60) == 0, old.log.read_text()
        old.start()
        eventually(lambda: asked(new, STREAMING), "it does not stream")

    def mend(self) -> None:
        """Have the primary run, waiting for nobody, and the standby stream from it, whatever was left behind."""
        if not self.primary.running:
            self.primary.start()
        if asked(self.primary, "SHOW synchronous_standby_names") != [("",)]:
            self.configure(self.primary, "ALTER SYSTEM RESET synchronous_standby_names")
        if not (self.standby.running and asked(self.primary, STREAMING)):
            self.follow()

    def close(self) -> None:
        """Stop both."""
        for server in self.hosts:
            server.stop()
