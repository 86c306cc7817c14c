"""The servers of a shard that has several: each is asked, whatever it is, and compared with the primary.

What a standby has of roles, rights and rows it has from the primary, so those are looked at there alone. Its own are
what it is, how far it is, its settings, and who may log in.

Decides what of a host's facts is a finding: ``judge`` is pure. Which one is the primary is proxy.shards.hosts's.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from proxy.doctor.finding import FILE, HAND, SHELL, Command
from proxy.doctor.look import literal, words
from proxy.shards.errors import ShardError
from proxy.shards.hosts import Place
from proxy.shards.link import open_link
from proxy.shards.one_host import ask_host
from router.own_schema import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.doctor.look import Look
    from proxy.shards.hosts import HostAddress

    Facts = dict[str, Any]

#: How long a standby may take to replay what the primary had when it was asked.
PATIENCE_S: Final = 3.0
_PAUSE_S: Final = 0.1
# With less of one of them than its primary a standby pauses its recovery, or does not start.
SIZES: Final = (
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_wal_senders",
    "max_worker_processes",
)
_WAITS_FOR_NOBODY: Final = frozenset({"off", "local"})
_ABOVE_THE_SERVER: Final = frozenset({"database", "user", "database user"})
_FACTS: Final = """SELECT json_build_object(
    'standby', r,
    'version', current_setting('server_version'),
    'system', (SELECT system_identifier::text FROM pg_control_system()),
    'timeline', CASE WHEN r THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery()), follows)
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8 END,
    'follows', coalesce(follows, 0),
    'lsn', (CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::int8,
    'paused', CASE WHEN r THEN pg_is_wal_replay_paused() ELSE false END,
    'sizes', (SELECT json_object_agg(name, setting::int8) FROM pg_settings WHERE name = ANY($1::text[])),
    'synchronous_commit', (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
    'set_for', (SELECT source FROM pg_settings WHERE name = 'synchronous_commit'),
    'role', current_user,
    'database', current_database(),
    'synchronous_standby_names', current_setting('synchronous_standby_names')
    )::text
    FROM pg_is_in_recovery() r
        LEFT JOIN (SELECT received_tli AS follows FROM pg_stat_get_wal_receiver() w
            WHERE w.status = 'streaming') AS receiver ON true"""


async def look_at_hosts(look: Look) -> None:
    """Every host of every shard that has several, also where no primary was found."""
    for shard, endpoint in enumerate(look.control.endpoints):
        if not endpoint.has_several:
            continue
        addresses = endpoint.addresses
        answers = await asyncio.gather(*(_ask(look, shard, address) for address in addresses))
        said = dict(zip(addresses, answers, strict=True))
        primary = endpoint.place.address
        await _let_them_replay(look, shard, primary, said)
        judge(look, shard, primary, said)
        if shard in look.up:
            await _look_at_logins(look, shard, [a for a, one in said.items() if one.get("standby")])


async def _ask(look: Look, shard: int, address: HostAddress) -> Facts:
    """Return what a host says of itself, or the reason why it says nothing, as ``silent``."""
    try:
        text = await ask_host(
            look.control.endpoints[shard], address, _FACTS, list(SIZES), timeout_s=look.options.timeout_s
        )
    except ShardError as error:
        return {"silent": words(error)}
    facts: Facts = json.loads(text)
    return facts


async def _let_them_replay(look: Look, shard: int, primary: HostAddress | None, said: dict[HostAddress, Facts]) -> None:
    """Ask standbys again that have not replayed what the primary had when it was asked."""
    head = said[primary] if primary is not None else {}
    wanted = head.get("lsn", 0)
    until = asyncio.get_running_loop().time() + PATIENCE_S
    while late := [
        address
        for address, one in said.items()
        if one.get("standby") and one["follows"] == head.get("timeline") and not one["paused"] and one["lsn"] < wanted
    ]:
        if asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(_PAUSE_S)
        for address in late:
            said[address] = await _ask(look, shard, address)


def judge(look: Look, shard: int, primary: HostAddress | None, said: Mapping[HostAddress, Facts]) -> None:
    """Find what is wrong with hosts by what all of them have said."""
    for address, one in said.items():
        if "silent" in one:
            start = Command(HAND, f"start the server at {address} as a standby, or take it out of the DSN")
            look.add("host-unreachable", shard, address, one["silent"], start)
    head = {"silent": ""} if primary is None else said[primary]
    if primary is None or "silent" in head:
        _strangers(look, shard, said)
        return  # nothing to compare with: the shard itself is a finding
    for address, one in said.items():
        if address != primary and "silent" not in one:
            _compare(look, shard, (primary, head), (address, one))
    if head["synchronous_standby_names"] and head["synchronous_commit"] in _WAITS_FOR_NOBODY:
        where = head["set_for"] if head["set_for"] in _ABOVE_THE_SERVER else "server"
        detail = f"synchronous_commit = {head['synchronous_commit']}, set for the {where}"
        look.add("commits-wait-for-nobody", shard, primary, detail, *_have_them_wait(look, shard, where, head))


def _strangers(look: Look, shard: int, said: Mapping[HostAddress, Facts]) -> None:
    """Say that hosts are of several clusters. Which of them are foreign nobody can tell without a primary."""
    systems: dict[str, list[str]] = {}
    for address, one in said.items():
        if "silent" not in one:
            kind = "a standby" if one["standby"] else "takes writes"
            systems.setdefault(one["system"], []).append(f"{address} ({kind})")
    if len(systems) > 1:
        detail = "; ".join(f"system identifier {system}: {', '.join(hosts)}" for system, hosts in systems.items())
        place = f"databases.{look.database.name}.shards.{look.name(shard)}"
        look.add("host-foreign", shard, "", detail, Command(FILE, f"{place}: a DSN with the hosts of one cluster only"))


def _have_them_wait(look: Look, shard: int, where: str, head: Facts) -> tuple[Command, ...]:
    """Return how commits wait for standbys again. SET, because a line of postgresql.conf would outlive a RESET."""
    if where == "server":
        change = look.sql(shard, "ALTER SYSTEM SET synchronous_commit = on")
        return change, look.sql(shard, "SELECT pg_reload_conf()")
    role, database = quote_identifier(head["role"]), quote_identifier(head["database"])
    whose = {
        "database": f"DATABASE {database}",
        "user": f"ROLE {role}",
        "database user": f"ROLE {role} IN DATABASE {database}",
    }
    return (look.sql(shard, f"ALTER {whose[where]} RESET synchronous_commit"),)


def _compare(look: Look, shard: int, first: tuple[HostAddress, Facts], other: tuple[HostAddress, Facts]) -> None:
    """Compare one host with the primary."""
    (primary, head), (address, here) = first, other
    if here["system"] != head["system"]:
        detail = f"system identifier {here['system']}, and {primary} has {head['system']}"
        look.add("host-foreign", shard, address, detail, Command(HAND, f"a pg_basebackup of {primary}, or another DSN"))
        return
    if not here["standby"]:
        detail = f"takes writes on timeline {here['timeline']}, and {primary} does on {head['timeline']}"
        source = host_target(look, shard, primary)
        rewind = f"pg_rewind --target-pgdata=DIRECTORY --source-server='{source}' -R"
        look.add("host-takes-writes", shard, address, detail, Command(HAND, f"stop it; {rewind}; start it"))
        return
    if here["version"] != head["version"]:
        same = Command(HAND, f"give the host of {address} the packages of {primary}'s")
        look.add("host-version-differs", shard, address, f"{here['version']}, the primary {head['version']}", same)
    low = [name for name in SIZES if here["sizes"][name] < head["sizes"][name]]
    if not (low and here["paused"]):  # with less it pauses by itself, and ends when it is told to resume
        _replay(look, shard, first, other)
    if low:
        detail = ", ".join(f"{name} = {here['sizes'][name]}, the primary {head['sizes'][name]}" for name in low)
        raised = [_there(look, shard, address, f"ALTER SYSTEM SET {name} = {head['sizes'][name]}") for name in low]
        look.add(
            "host-limits-lower", shard, address, detail, *raised, Command(HAND, f"restart the server at {address}")
        )
    names = head["synchronous_standby_names"]
    if names and not here["synchronous_standby_names"]:
        wait = f"ALTER SYSTEM SET synchronous_standby_names = {literal(names)}"
        mend = _there(look, shard, address, wait, "SELECT pg_reload_conf()")
        look.add("host-would-not-wait", shard, address, f"synchronous_standby_names is empty, there {names}", mend)


def _replay(look: Look, shard: int, first: tuple[HostAddress, Facts], other: tuple[HostAddress, Facts]) -> None:
    """Whether a standby follows the primary, and how far it is."""
    (primary, head), (address, here) = first, other
    if here["follows"] != head["timeline"]:
        detail = f"nothing is streamed to it from timeline {head['timeline']}"
        follow = Command(HAND, f"primary_conninfo on {address} to lead to {primary}; pg_rewind, if it has diverged")
        look.add("host-not-following", shard, address, detail, follow)
    elif here["paused"]:
        resume = _there(look, shard, address, "SELECT pg_wal_replay_resume()")
        look.add("host-behind", shard, address, "its replay is paused", resume)
    elif here["lsn"] < head["lsn"]:
        detail = f"{head['lsn'] - here['lsn']} bytes behind after {PATIENCE_S:g} s"
        query = "pg_stat_activity, pg_stat_database_conflicts"
        look.add("host-behind", shard, address, detail, Command(HAND, f"see what holds its replay up: {query} there"))


async def _look_at_logins(look: Look, shard: int, standbys: list[HostAddress]) -> None:
    """Log in to the standbys as every configured user whom the primary lets in."""
    auth = look.config.auth
    for address in standbys:
        there = replace(look.control.endpoints[shard], place=Place(address=address, last=address))
        for user, known in (look.facts[shard]["users"] or {}).items():
            if known is None or not known["login"] or not known["connect"]:
                continue  # said already
            try:
                link = await open_link(
                    there,
                    role=user,
                    password=auth.passwords.get(user),
                    connect_timeout_s=look.config.limits.pool_connect_timeout_s,
                    replica=True,
                )
            except ShardError as error:
                line = Command(HAND, f"pg_hba.conf of {address}: as on the primary")
                look.add("host-login-fails", shard, f"{user} at {address}", words(error), line)
            else:
                await link.close()


def host_target(look: Look, shard: int, address: HostAddress) -> str:
    """Return what psql connects to one host by, without a password."""
    parts = urlsplit(look.target(shard))
    userinfo, at, _ = parts.netloc.rpartition("@")
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] != "target_session_attrs"])
    return urlunsplit(parts._replace(netloc=f"{userinfo}{at}{address}", query=query))


def _there(look: Look, shard: int, address: HostAddress, *statements: str) -> Command:
    """Return a command that runs SQL on one host; each statement by itself, as ALTER SYSTEM demands."""
    options = [part for statement in statements for part in ("-c", statement)]
    return Command(SHELL, shlex.join(["psql", "-X", host_target(look, shard, address), *options]))
