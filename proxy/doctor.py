"""``pgchorus doctor``: look at live shards for what would go wrong later. Changes nothing.

Looks, in this order, at: whether every shard can be reached; whether servers and placements agree with the
configuration (``shards.schema``); rights that commits and recovery need; logins of the configured users; settings;
versions and collations, which merges rely on; clocks; the columns of placed tables; rows on the wrong shard;
transactions that were left behind.

A finding is an *error* (something will fail or may become wrong) or a *warning* (it may be meant so).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.commands import control_links
from proxy.errors import ProxyError
from proxy.shards import schema
from proxy.shards.errors import ShardError
from proxy.shards.link import open_link
from proxy.twophase.gid import PREFIX, parse_participant
from router.cluster import Reference, Sharded, TableName
from router.own_schema import quote_identifier, quote_table
from router.sharding import hash_family, slot_check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.config import Config
    from proxy.shards.control import ControlLinks
    from router.cluster import Database

CLOCK_WARNING_S = 1.0
CLOCK_ERROR_S = 300.0
_NO_SCHEMA = "shard {} has no pgchorus schema"

# One row of JSON: all that needs no table. ``roles`` are the configured users.
FACTS = """SELECT json_build_object(
    'version', current_setting('server_version_num')::int / 10000,
    'server_version', current_setting('server_version'),
    'role', current_user,
    'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'may_create', has_database_privilege(current_database(), 'CREATE'),
    'reads_stats', pg_has_role('pg_read_all_stats', 'USAGE'),
    'max_prepared', current_setting('max_prepared_transactions')::int,
    'max_connections', current_setting('max_connections')::int,
    'synchronous_commit', (SELECT boot_val IS DISTINCT FROM reset_val AND reset_val NOT IN ('on', 'remote_apply')
        FROM pg_settings WHERE name = 'synchronous_commit'),
    'collation', (SELECT concat_ws(' ', datlocprovider, datcollate, datctype, datlocale, datcollversion)
        FROM pg_database WHERE datname = current_database()),
    'clock', extract(epoch FROM clock_timestamp()),
    'roles', (SELECT json_object_agg(wanted, json_build_object(
            'there', r.oid IS NOT NULL,
            'login', r.rolcanlogin,
            'may_set', CASE WHEN r.oid IS NOT NULL THEN pg_has_role(current_user, r.oid, 'SET') END))
        FROM unnest($1::text[]) AS wanted LEFT JOIN pg_roles r ON r.rolname = wanted),
    'pending', (SELECT coalesce(json_agg(json_build_array(gid, database = current_database(),
            extract(epoch FROM clock_timestamp() - prepared)) ORDER BY prepared), '[]') FROM pg_prepared_xacts))"""
# A table's columns as one text, NULL if it is not there.
COLUMNS = """SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'not null' END, c.collname), ', ' ORDER BY a.attnum)
    FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped"""
KEY_TYPE = """SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND NOT a.attisdropped"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``shard`` is empty where it concerns all of them."""

    error: bool
    shard: str
    text: str

    def __str__(self) -> str:
        return f"{'error' if self.error else 'warning'}: {f'shard {self.shard}: ' if self.shard else ''}{self.text}"


def _error(shard: str, text: str) -> Finding:
    return Finding(error=True, shard=shard, text=text)


def _warning(shard: str, text: str) -> Finding:
    return Finding(error=False, shard=shard, text=text)


def _words(error: ShardError | ProxyError) -> str:
    message, detail = (
        (error.fields.message, error.fields.detail) if isinstance(error, ShardError) else (error.message, error.detail)
    )
    return f"{message} ({detail})" if detail else message


@dataclass(frozen=True, slots=True)
class Facts:
    """What each shard that could be asked said, by shard index, and its clock against this process's own."""

    by_shard: Mapping[int, Mapping[str, Any]]
    clock_offset_s: Mapping[int, float]


async def examine(config: Config) -> int:
    """Examine every database, print what was found, and return the exit status: 1 if there are errors."""
    failed = False
    for database in config.cluster.databases.values():
        findings = await examine_database(config, database)
        for finding in findings:
            print(f"{database.name}: {finding}")
        if not findings:
            print(f"{database.name}: {len(database.shards)} shards, all is well")
        failed = failed or any(finding.error for finding in findings)
    return 1 if failed else 0


async def examine_database(config: Config, database: Database) -> list[Finding]:
    """Return all that is not as it should be with one database."""
    async with control_links(config, database) as control:
        facts, findings = await _ask(control, database, config)
        if len(facts.by_shard) < len(database.shards):
            return findings  # all else compares the shards
        findings += await _placements(config, control, database)
        for shard, name in enumerate(database.shards):
            findings += _rights(name, facts.by_shard[shard], config)
            findings += _settings(name, facts.by_shard[shard], config, database)
            findings += _left_behind(name, facts.by_shard[shard], config, database)
        findings += _agreement(database, facts)
        findings += await _logins(config, control, database)
        columns = await _columns(control, database)
        findings += _drift(database, columns)
        findings += await _misplaced(control, database)
    return findings


async def _ask(control: ControlLinks, database: Database, config: Config) -> tuple[Facts, list[Finding]]:
    """Ask every shard for its facts; those that cannot be reached are findings."""
    by_shard: dict[int, Mapping[str, Any]] = {}
    offsets: dict[int, float] = {}
    findings: list[Finding] = []
    loop = asyncio.get_running_loop()

    async def ask(shard: int) -> None:
        try:
            async with control.connection(shard) as connection:
                before = loop.time()
                facts = json.loads(await connection.fetchval(FACTS, sorted(config.auth.users)))
                by_shard[shard] = facts
                offsets[shard] = facts["clock"] - (before + loop.time()) / 2
        except (ShardError, ProxyError) as error:
            findings.append(_error(database.shards[shard], f"cannot be asked: {_words(error)}"))

    await asyncio.gather(*(ask(shard) for shard in range(len(database.shards))))
    return Facts(by_shard, offsets), findings


async def _placements(config: Config, control: ControlLinks, database: Database) -> list[Finding]:
    try:
        await schema.check(control, database, config.cluster.name)
    except schema.PlacementMismatch as mismatch:
        # A shard without the schema places nothing; once is enough.
        bare = [f"on shard {name} " for name in database.shards if _NO_SCHEMA.format(name) in mismatch.problems]
        return [_error("", problem) for problem in mismatch.problems if not problem.startswith(tuple(bare))]
    return []


def _rights(name: str, facts: Mapping[str, Any], config: Config) -> list[Finding]:
    """Check what the DSN's role needs: a schema, the ages of transactions, COMMIT PREPARED for any client."""
    role = facts["role"]
    findings = []
    if not facts["may_create"]:
        findings.append(_error(name, f"role {role} may not create the schema pgchorus: GRANT CREATE ON DATABASE"))
    if not facts["reads_stats"]:
        findings.append(_error(name, f"role {role} needs the role pg_read_all_stats to drop old records safely"))
    for user, of_user in (facts["roles"] or {}).items():
        if not of_user["there"]:
            findings.append(_error(name, f"the configured user {user} is not a role"))
        elif not of_user["login"]:
            findings.append(_error(name, f"the configured user {user} may not log in"))
        elif not of_user["may_set"]:
            text = f"role {role} could not finish commits of {user}: GRANT {user} TO {role}, or let it be a superuser"
            findings.append(_error(name, text))
    if not facts["superuser"] and config.auth.method == "trust":
        text = f"role {role} is no superuser: it can finish commits only of roles that it is a member of"
        findings.append(_warning(name, text))
    return findings


def _settings(name: str, facts: Mapping[str, Any], config: Config, database: Database) -> list[Finding]:
    findings = []
    size = config.limits.pool_size
    if len(database.shards) > 1 and 0 < facts["max_prepared"] < size:
        text = f"max_prepared_transactions = {facts['max_prepared']} is less than limits.pool.size = {size}"
        findings.append(_warning(name, f"{text}: commits may fail when all clients commit at once"))
    needed = size + config.limits.control_per_shard
    if facts["max_connections"] < needed:
        text = f"max_connections = {facts['max_connections']}, and one role's pool with the control links has {needed}"
        findings.append(_warning(name, text))
    if facts["synchronous_commit"]:
        findings.append(_warning(name, "synchronous_commit is off or local by default; commits here use on"))
    return findings


def _left_behind(name: str, facts: Mapping[str, Any], config: Config, database: Database) -> list[Finding]:
    findings = []
    old_s = config.limits.recovery_grace_s + 2 * config.limits.recovery_interval_s
    for gid, is_here, age_s in facts["pending"]:
        age = f"prepared {age_s:.0f} s ago"
        parsed = parse_participant(gid)
        if parsed is None or parsed[0].cluster != config.cluster.name:
            if is_here:
                whose = "of another cluster" if gid.startswith(f"{PREFIX}:") else "that is not ours"
                findings.append(_warning(name, f"a transaction {whose}, {age}, holds locks: {gid}"))
        elif is_here and parsed[0].commit_point not in database.shards:
            findings.append(_error(name, f"{gid}: its commit point is not a shard of this database"))
        elif is_here and age_s > old_s:
            findings.append(_error(name, f"{gid}, {age}, is still not finished: see pgchorus recover"))
    return findings


def _agreement(database: Database, facts: Facts) -> list[Finding]:
    """Compare what must be the same everywhere: versions and collations, and clocks roughly."""
    findings = []
    for what, text, error in (
        ("version", "the shards have different major versions", False),
        ("collation", "the shards sort text differently (locale, or the version of its library)", True),
    ):
        values = {name: facts.by_shard[shard][what] for shard, name in enumerate(database.shards)}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            findings.append(Finding(error=error, shard="", text=f"{text}: {listed}"))
    spread = max(facts.clock_offset_s.values()) - min(facts.clock_offset_s.values())
    if spread > CLOCK_WARNING_S:
        text = f"the shards' clocks are {spread:.1f} s apart"
        findings.append(Finding(error=spread > CLOCK_ERROR_S, shard="", text=text))
    return findings


async def _logins(config: Config, control: ControlLinks, database: Database) -> list[Finding]:
    """Log in to every shard as every configured user, as the proxy will."""
    findings: list[Finding] = []
    for endpoint in control.endpoints:
        for user in config.auth.users:
            try:
                link = await open_link(
                    endpoint,
                    role=user,
                    password=config.auth.passwords.get(user),
                    connect_timeout_s=config.limits.pool_connect_timeout_s,
                )
            except ShardError as error:
                findings.append(_error(database.shards[endpoint.index], f"{user} cannot log in: {_words(error)}"))
            else:
                await link.close()
    return findings


async def _columns(control: ControlLinks, database: Database) -> dict[TableName, list[str | None]]:
    """Return each placed table's columns on every shard."""
    found: dict[TableName, list[str | None]] = {}
    for table, placement in sorted(database.placements.items()):
        if isinstance(placement, Sharded | Reference):
            found[table] = []
            for shard in range(len(database.shards)):
                async with control.connection(shard) as connection:
                    found[table].append(await connection.fetchval(COLUMNS, quote_table(table)))
    return found


def _drift(database: Database, columns: Mapping[TableName, Sequence[str | None]]) -> list[Finding]:
    findings = []
    for table, of_shards in columns.items():
        present = {text for text in of_shards if text is not None}
        if len(present) > 1:
            parts = (f"{name} ({text})" for name, text in zip(database.shards, of_shards, strict=True) if text)
            findings.append(_error("", f"table {table} is not the same everywhere: {'; '.join(parts)}"))
        elif not present:
            findings.append(_warning("", f"table {table} is placed and not there (yet)"))
    return findings


async def _misplaced(control: ControlLinks, database: Database) -> list[Finding]:
    """Count rows whose key hashes to another shard; reads every sharded table once."""
    findings = []
    for shard, name in enumerate(database.shards):
        first, last = database.slot_range(shard)
        async with control.connection(shard) as connection:
            for table, placement in sorted(database.placements.items()):
                if not isinstance(placement, Sharded):
                    continue
                key_type = await connection.fetchval(KEY_TYPE, quote_table(table), placement.key)
                if key_type is None or not hash_family(key_type):
                    continue  # not there, or no key: the placements' check has said so
                fits = slot_check(key_type, quote_identifier(placement.key), database.slots, first, last)
                query = f"SELECT count(*) FROM {quote_table(table)} WHERE NOT ({fits})"  # noqa: S608 - quoted
                try:
                    count = await connection.fetchval(query)
                except ShardError as error:
                    findings.append(_error(name, f"the rows of {table} cannot be looked at: {error.fields.message}"))
                    continue
                if count:
                    findings.append(_error(name, f"{count} rows of {table} belong to other shards"))
    return findings
