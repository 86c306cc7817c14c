"""Kinds of findings that need no table to be there: the configuration, servers, settings, roles."""

from __future__ import annotations

from typing import Final

from proxy.doctor.kind import ERROR, NOTE, WARNING, Area, Kind

CONFIGURATION: Final = Area(
    "The configuration alone",
    (
        Kind("config-mistake", ERROR, "the file is wrong in a place", "no command takes it", "what stands behind it"),
        Kind(
            "config-grace-short",
            WARNING,
            "recovery gives transactions up that are still being committed",
            "slow commits end with 40001",
            "raise `limits.recovery.grace_s`",
        ),
        Kind(
            "config-trust-open",
            WARNING,
            "whoever reaches the port is believed",
            "anybody on the network reads and writes everything",
            "another `auth.method`, or `listen.host: 127.0.0.1`",
        ),
        Kind(
            "config-clear-passwords",
            WARNING,
            "passwords cross the network in clear, or nearly so",
            "who listens on the network has them",
            "`tls`, or `auth.method: scram-sha-256`",
        ),
    ),
)
SERVERS: Final = Area(
    "Servers",
    (
        Kind(
            "shard-unreachable",
            ERROR,
            "a shard cannot be asked",
            "statements that need it fail, and so do reads of all shards",
            "start the server, or give the DSN that leads to it",
        ),
        Kind(
            "look-failed",
            ERROR,
            "a shard would not answer one of the questions here",
            "nobody knows whether that is as it should be",
            "what the shard said; then again",
        ),
        Kind(
            "look-incomplete",
            WARNING,
            "a table was not read to its end",
            "nobody knows whether its rows are as they should be",
            "a longer `--timeout`, or at another time",
        ),
        Kind(
            "encoding-not-utf8",
            ERROR,
            "a shard's database is not in UTF8",
            "keys are hashed in UTF8: `serve` refuses to start",
            "dump it, make it again in UTF8, and load it",
        ),
        Kind(
            "same-database",
            ERROR,
            "two shards are one database",
            "reference tables would be written twice: `serve` refuses to start",
            "give each shard a database of its own",
        ),
        Kind(
            "prepared-off",
            ERROR,
            "max_prepared_transactions is 0",
            "no commit over several shards is possible: `serve` refuses to start",
            "`ALTER SYSTEM`, and a restart of the server",
        ),
        Kind(
            "prepared-few",
            WARNING,
            "max_prepared_transactions is less than one role's links",
            "commits fail when all clients commit at once",
            "`ALTER SYSTEM`, and a restart of the server",
        ),
        Kind(
            "connections-few",
            WARNING,
            "max_connections is less than one role's links and the proxy's own",
            "clients get 53300 before the pool is full",
            "`ALTER SYSTEM` and a restart, or a smaller `limits.pool.size`",
        ),
        Kind(
            "version-old",
            ERROR,
            "the server is older than PostgreSQL 14",
            "the catalog cannot be read there",
            "pg_upgrade",
        ),
        Kind(
            "version-untested",
            NOTE,
            "the server is not PostgreSQL 18",
            "pgchorus was tested on 18 only",
            "pg_upgrade, or tests of your own",
        ),
        Kind(
            "versions-differ",
            WARNING,
            "the shards have different major versions",
            "the same statement may mean, print or sort something else on each",
            "pg_upgrade",
        ),
        Kind(
            "locale-differs",
            ERROR,
            "the shards' databases have different locales",
            "text is sorted and compared differently: merged answers are in no order, groups come twice",
            "make the database again with the locale of the others",
        ),
        Kind(
            "collation-versions-differ",
            ERROR,
            "the shards' libraries sort text differently",
            "merged answers may be in no order",
            "the same operating system (ICU, glibc) on all of them",
        ),
        Kind(
            "collation-version-stale",
            ERROR,
            "the library that sorts text has changed under a database",
            "indexes on text may miss rows",
            "`REINDEX DATABASE`, then `REFRESH COLLATION VERSION`",
        ),
        Kind(
            "clocks-apart",
            WARNING,
            "the shards' clocks, and this one, are more than a second apart",
            "now() in functions and single-shard statements jumps from shard to shard",
            "NTP on every server",
        ),
        Kind(
            "clocks-far-apart",
            ERROR,
            "the clocks are more than five minutes apart",
            "an hour is enough for commits over several shards to be refused (PGC04)",
            "NTP on every server",
        ),
        Kind(
            "replicas-asynchronous",
            WARNING,
            "the shard has replicas, and waits for none of them",
            "a failover can lose this shard's half of a transaction: it is torn",
            "`synchronous_standby_names`",
        ),
        Kind(
            "standbys-absent",
            ERROR,
            "synchronous_standby_names asks for more standbys than there are",
            "every write on the shard hangs at its commit, and holds its locks",
            "start them, or `synchronous_standby_names`",
        ),
        Kind(
            "fsync-off",
            WARNING,
            "fsync or full_page_writes is off",
            "a crash of the machine loses what was committed, on this shard alone: transactions are torn",
            "`ALTER SYSTEM SET` it on, and reload (unless the command line of the server has it)",
        ),
        Kind(
            "transaction-old",
            WARNING,
            "a transaction has been open for more than an hour",
            "nothing that is younger can be vacuumed, and records of aborted transactions stay",
            "`pg_terminate_backend`, if nobody needs it",
        ),
    ),
)
HOSTS: Final = Area(
    "Shards of several hosts",
    (
        Kind(
            "host-unreachable",
            WARNING,
            "one of a shard's hosts cannot be asked",
            "there is nothing to fail over to, or nobody knows what it is: it may be an old primary that takes writes",
            "start it as a standby, or take it out of the DSN",
        ),
        Kind(
            "host-foreign",
            ERROR,
            "a host is no copy of the shard's primary",
            "it has other rows: it is never served, and the shard has one host less than it seems",
            "`pg_basebackup` of the primary, or another DSN",
        ),
        Kind(
            "host-takes-writes",
            ERROR,
            "a host beside the primary takes writes",
            "what anybody commits there past pgchorus is lost",
            "stop it, `pg_rewind`, and start it as a standby",
        ),
        Kind(
            "host-version-differs",
            NOTE,
            "a host has another minor version than the primary",
            "what a release mends it mends on one of them only",
            "the same packages on all of them",
        ),
        Kind(
            "host-not-following",
            WARNING,
            "a standby receives nothing from the primary",
            "it falls behind: it is not read from, and a failover to it loses what it has not",
            "`primary_conninfo`; `pg_rewind`, if it has diverged",
        ),
        Kind(
            "host-behind",
            WARNING,
            "a standby does not replay what the primary had seconds ago",
            "it is not read from when it is too far behind, and a failover to it waits for that",
            "`pg_wal_replay_resume()`; or what holds its replay up",
        ),
        Kind(
            "host-limits-lower",
            ERROR,
            "a standby has less connections, prepared transactions, locks, senders or workers than the primary",
            "its replay pauses, or it does not start; after a failover commits would fail",
            "`ALTER SYSTEM` on that host, and a restart of it",
        ),
        Kind(
            "host-would-not-wait",
            WARNING,
            "the primary waits for standbys, and a host would not if it were the primary",
            "after a failover to it, the next one can lose this shard's half of a transaction",
            "`synchronous_standby_names`, on that host",
        ),
        Kind(
            "commits-wait-for-nobody",
            WARNING,
            "synchronous_standby_names is set, and synchronous_commit is off or local",
            "commits on this shard alone wait for no standby: a failover loses them",
            "`ALTER SYSTEM SET synchronous_commit = on`, or `RESET` it for the database or role",
        ),
        Kind(
            "host-login-fails",
            WARNING,
            "a standby does not let a configured user in, and the primary does",
            "its reads from replicas fail, and after a failover all of its statements for that shard",
            "pg_hba.conf of that host",
        ),
    ),
)
SETTINGS: Final = Area(
    "Settings",
    (
        Kind(
            "setting-refused",
            ERROR,
            "standard_conforming_strings, array_nulls, transform_null_equals or session_replication_role is not right",
            "over several shards such sessions are refused",
            "`RESET` it where it is set",
        ),
        Kind(
            "setting-read-only",
            ERROR,
            "transactions are read only by default",
            "writes to this shard fail",
            "`RESET` it where it is set",
        ),
        Kind(
            "setting-serializable",
            WARNING,
            "transactions are serializable by default",
            "every transaction that needs a second shard is refused",
            "`RESET` it where it is set",
        ),
        Kind(
            "setting-idle-session",
            WARNING,
            "the server ends idle sessions",
            "the proxy's links are such: they vanish from the pools, and the first statement may find one gone",
            "`RESET` it where it is set; `limits.pool.idle_lifetime_s` closes what nobody needs",
        ),
        Kind(
            "settings-differ",
            ERROR,
            "a setting that changes answers is not the same on all shards",
            "rows of one answer are printed or read in different ways",
            "the home shard's value, at the same place",
        ),
    ),
)
RIGHTS: Final = Area(
    "Roles and rights",
    (
        Kind(
            "control-role-weak",
            ERROR,
            "the role of the DSN is no superuser",
            "prepared transactions of other roles cannot be finished, the schema cannot be made",
            "`ALTER ROLE ... SUPERUSER`, by a superuser",
        ),
        Kind(
            "user-missing", ERROR, "a configured user is no role on a shard", "nobody can log in by it", "`CREATE ROLE`"
        ),
        Kind(
            "user-no-login",
            ERROR,
            "a configured user may not log in",
            "nobody can log in by it",
            "`ALTER ROLE ... LOGIN`",
        ),
        Kind(
            "user-no-connect",
            ERROR,
            "a configured user may not connect to a shard's database",
            "its statements for that shard fail",
            "`GRANT CONNECT ON DATABASE`",
        ),
        Kind(
            "user-login-fails",
            ERROR,
            "a shard does not let a configured user in",
            "its statements for that shard fail",
            "the password that the configuration has (`\\password` in psql), or a line in pg_hba.conf",
        ),
        Kind(
            "user-no-temporary",
            WARNING,
            "a configured user may make no temporary tables on the home shard",
            "statements that are gathered there fail (42501)",
            "`GRANT TEMPORARY ON DATABASE`",
        ),
        Kind(
            "roles-differ",
            ERROR,
            "a configured user is not the same role everywhere",
            "what it may do depends on the shard: policies and rights give partial answers or errors",
            "`ALTER ROLE`, `GRANT` and `REVOKE`, as on the home shard",
        ),
    ),
)
