"""The servers themselves: whether they answer, versions, limits, locales, clocks, settings, replicas, old transactions.

Decides what of a shard's facts is a finding. Pure but for ``ask``: each ``look_at_...`` goes by ``Look.facts`` alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.finding import FILE, HAND, SHELL, Command
from proxy.doctor.look import literal, words
from proxy.doctor.server_sql import FACTS, FILE_SETTINGS, SAME_EVERYWHERE, WATCHED
from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from router.own_schema import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.doctor.look import Look

TESTED_VERSION: Final = 18
OLDEST_VERSION: Final = 14
CLOCK_WARNING_S: Final = 1.0
CLOCK_ERROR_S: Final = 300.0
OLD_TRANSACTION_S: Final = 3600
RELOAD: Final = "SELECT pg_reload_conf()"
# What a setting must be, or a session (or its writes, or its second shard) is refused.
_MUST_BE: Final = {
    "standard_conforming_strings": ("on", "setting-refused"),
    "transform_null_equals": ("off", "setting-refused"),
    "array_nulls": ("on", "setting-refused"),
    "session_replication_role": ("origin", "setting-refused"),
    "default_transaction_read_only": ("off", "setting-read-only"),
    "idle_session_timeout": ("0", "setting-idle-session"),
}
_SERIALIZABLE: Final = "default_transaction_isolation"
_ON_OFF: Final = {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off"}
_SWITCHES: Final = {name for name, (value, _) in _MUST_BE.items() if value in {"on", "off"}}
_ABOVE_THE_SERVER: Final = frozenset({"client", "session", "database", "user", "database user", "global"})
# FIRST 2 (a, b), ANY 2 (a, b), 2 (a, b), or a list of which one is enough.
_SEVERAL: Final = re.compile(r"\s*(?:(?:first|any)\s+)?(\d+)\s*\(", re.IGNORECASE)
_LISTS: Final = frozenset({"search_path"})  # kept as a list of quoted names


async def ask(look: Look) -> None:
    """Ask every shard for its facts; those that cannot be reached are findings."""
    users = sorted(look.config.auth.users)

    async def one(shard: int) -> None:
        try:
            async with look.link(shard) as connection:
                before = time.time()
                facts = json.loads(await connection.fetchval(FACTS, users, list(WATCHED), OLD_TRANSACTION_S))
                facts["offset_s"] = facts["clock"] - (before + time.time()) / 2
                files = await connection.fetchval(FILE_SETTINGS, list(WATCHED)) if facts["superuser"] else None
                facts["settings"] = _of_server(facts["settings"], json.loads(files or "null") or {})
                look.facts[shard] = facts
        except (ShardError, ProxyError) as error:
            advice = Command(HAND, f"start the server of {look.target(shard)}, or mend the DSN")
            look.add("shard-unreachable", shard, "", words(error), advice)

    await asyncio.gather(*(one(shard) for shard in range(len(look.database.shards))))
    look.up = sorted(look.facts)


def _of_server(settings: dict[str, list[str | None]], files: dict[str, str]) -> dict[str, str | None]:
    """Return the server's own values: the session's say nothing where a link, a database or a role sets another."""
    return {
        name: files.get(name, boot) if source in _ABOVE_THE_SERVER else value
        for name, (source, value, boot) in settings.items()
    }


async def look_at_servers(look: Look) -> None:
    """Versions, limits, locales, identities."""
    for shard in look.up:
        _limits(look, shard)
        facts = look.facts[shard]
        upgrade = Command(HAND, f"pg_upgrade the server of shard {look.name(shard)} to PostgreSQL {TESTED_VERSION}")
        if facts["version"] < OLDEST_VERSION:
            look.add("version-old", shard, "", f"PostgreSQL {facts['version']}", upgrade)
        elif facts["version"] != TESTED_VERSION:
            look.add("version-untested", shard, "", f"PostgreSQL {facts['version']}", upgrade)
        if facts["encoding"] != "UTF8":
            look.add("encoding-not-utf8", shard, facts["database"], facts["encoding"], *_made_again(look, shard))
        _replication(look, shard)
        for pid, user, age_s, state in facts["old"]:
            end = look.sql(shard, f"SELECT pg_terminate_backend({pid})")
            look.add("transaction-old", shard, f"pid {pid}", f"{user}, {state}, open for {age_s // 60} minutes", end)
    by_identity: dict[str, int] = {}
    for shard in look.up:
        other = by_identity.setdefault(look.facts[shard]["identity"], shard)
        if other != shard:
            edit = Command(
                FILE, f"databases.{look.database.name}.shards.{look.name(shard)}: the DSN of another database"
            )
            look.add("same-database", (other, shard), "", "both DSNs lead to the same database", edit)
    _agreement(look)


def _replication(look: Look, shard: int) -> None:
    """Whether commits wait for standbys: for none, or for ones that are not there."""
    facts = look.facts[shard]
    names = facts["settings"].get("synchronous_standby_names")
    states = [state for _, state in facts["replicas"]]
    if names:
        waited_for = sum(state in {"sync", "quorum"} for state in states)
        several = _SEVERAL.match(names)
        needed = int(several[1]) if several else 1
        if waited_for < needed and None not in states:  # None: not shown to this role
            detail = f"synchronous_standby_names = {names}, and {waited_for} of {needed} such standbys stream"
            start = Command(
                HAND, f"start the standbys of shard {look.name(shard)} that are named there, or name others"
            )
            look.add("standbys-absent", shard, "", detail, start)
        return
    asynchronous = [name for name, state in facts["replicas"] if state == "async"]
    if asynchronous:
        text = f"replicas {', '.join(asynchronous)} are asynchronous"
        wait = look.sql(shard, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
        look.add("replicas-asynchronous", shard, "", text, wait, look.sql(shard, RELOAD))


def _limits(look: Look, shard: int) -> None:
    facts, limits = look.facts[shard], look.config.limits
    restart = Command(HAND, f"restart the server of shard {look.name(shard)}")
    wanted = limits.pool_size + limits.pool_extra

    def setting(name: str, value: int) -> Command:
        return look.sql(shard, f"ALTER SYSTEM SET {name} = {value}")

    if look.many and facts["max_prepared"] < limits.pool_size:
        off = facts["max_prepared"] == 0
        detail = f"max_prepared_transactions = {facts['max_prepared']}, limits.pool.size = {limits.pool_size}"
        raised = setting("max_prepared_transactions", max(wanted, 100))
        look.add("prepared-off" if off else "prepared-few", shard, "", detail, raised, restart)
    needed = limits.pool_size + limits.control_per_shard
    if facts["max_connections"] < needed:
        detail = f"max_connections = {facts['max_connections']}, and one role's links with the proxy's own are {needed}"
        raised = setting("max_connections", wanted + limits.control_per_shard + 20)
        look.add("connections-few", shard, "", detail, raised, restart)
    off_now = [name for name in ("fsync", "full_page_writes") if facts["settings"].get(name) == "off"]
    if off_now:
        commands = [look.sql(shard, f"ALTER SYSTEM SET {name} = on") for name in off_now]
        look.add("fsync-off", shard, "", f"{' and '.join(off_now)} off", *commands, look.sql(shard, RELOAD))


def _made_again(look: Look, shard: int) -> tuple[Command, ...]:
    """Return how a database is made again with the encoding and locale of one that is right."""
    target, name = look.target(shard), look.facts[shard]["database"]
    right = next(
        (s for s in (look.home, *look.up) if s in look.facts and look.facts[s]["encoding"] == "UTF8" and s != shard),
        None,
    )
    create = f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0 ENCODING 'UTF8'"
    if right is not None:
        provider, collate, ctype, *rest = look.facts[right]["locale"].split()
        create += f" LC_COLLATE {literal(collate)} LC_CTYPE {literal(ctype)}"
        if provider in {"b", "i"} and rest:
            kind, word = ("builtin", "BUILTIN_LOCALE") if provider == "b" else ("icu", "ICU_LOCALE")
            create += f" LOCALE_PROVIDER {kind} {word} {literal(rest[0])}"
        else:
            create += " LOCALE_PROVIDER libc"
    maintenance = target.replace(f"/{name}", "/postgres", 1)
    psql, before = f"psql -X '{maintenance}'", quote_identifier(f"{name}_before")
    file = f"{name}.{look.name(shard)}.sql"
    return (
        Command(HAND, "stop every proxy of this cluster"),
        Command(SHELL, f"pg_dump --encoding=UTF8 --file={file} '{target}'"),
        Command(SHELL, f"{psql} -c 'ALTER DATABASE {quote_identifier(name)} RENAME TO {before}'"),
        Command(SHELL, f'{psql} -c "{create.replace(chr(34), chr(92) + chr(34))}"'),
        Command(SHELL, f"psql -X -v ON_ERROR_STOP=1 '{target}' --file={file}"),
    )


def _agreement(look: Look) -> None:
    """Compare what must be the same everywhere: versions, locales, collations, and clocks roughly."""
    versions = {shard: look.facts[shard]["version"] for shard in look.up}
    if len(set(versions.values())) > 1:
        newest = max(versions.values())
        old = [shard for shard in look.up if versions[shard] < newest]
        detail = ", ".join(f"{look.name(shard)}: {version}" for shard, version in versions.items())
        look.add("versions-differ", old, "", detail, Command(HAND, f"pg_upgrade {look.names(old)} to {newest}"))
    base = look.home if look.home in look.facts else look.up[0] if look.up else None
    for shard in look.up:
        here, there = look.facts[shard], look.facts[base if base is not None else shard]
        if here["locale"] != there["locale"] and here["encoding"] == there["encoding"]:
            detail = f"{here['locale']}, and {look.name(base or 0)} has {there['locale']}"
            look.add("locale-differs", shard, here["database"], detail, *_made_again(look, shard))
        elif here["collation"][1] != there["collation"][1]:
            detail = f"version {here['collation'][1]}, and {look.name(base or 0)} has {there['collation'][1]}"
            same = Command(
                HAND, f"give the host of {look.name(shard)} the libraries (ICU, glibc) of {look.name(base or 0)}'s"
            )
            look.add("collation-versions-differ", shard, here["database"], detail, same)
        if here["collation"][0] is not None and here["collation"][0] != here["collation"][1]:
            detail = f"made with version {here['collation'][0]}, the library has {here['collation'][1]}"
            name = quote_identifier(here["database"])
            again = look.sql(shard, f"REINDEX DATABASE {name}")
            refresh = look.sql(shard, f"ALTER DATABASE {name} REFRESH COLLATION VERSION")
            look.add("collation-version-stale", shard, here["database"], detail, again, refresh)
    _clocks(look)


def _clocks(look: Look) -> None:
    offsets = {shard: look.facts[shard]["offset_s"] for shard in look.up}
    spread = max((*offsets.values(), 0.0)) - min((*offsets.values(), 0.0))
    if spread > CLOCK_WARNING_S:
        detail = ", ".join(f"{look.name(shard)} {offset:+.1f} s" for shard, offset in offsets.items())
        off = [shard for shard, offset in offsets.items() if abs(offset) > CLOCK_WARNING_S] or look.up
        sync = Command(SHELL, "chronyc makestep    # on the hosts of these shards, or of this proxy")
        name = "clocks-far-apart" if spread > CLOCK_ERROR_S else "clocks-apart"
        look.add(name, off, "", f"against this machine's: {detail}", sync)


# --- settings --------------------------------------------------------------------------------------------------------

Place = tuple[str, bool]
"""A role's name ('' is every role), and whether it is for this database only. SERVER is neither."""
SERVER: Final[Place] = ("", False)


def _places(facts: dict[str, Any]) -> Iterator[tuple[Place, str, str]]:
    """Yield where a setting is made, its name and its value."""
    for name, value in facts["settings"].items():
        if value is not None:
            yield SERVER, name, value
    by_folded = {name.lower(): name for name in WATCHED}
    for role, in_database, name, value in facts["overrides"]:
        if name.lower() in by_folded:
            yield (role, in_database), by_folded[name.lower()], value


def _reset(look: Look, shard: int, place: Place, name: str, value: str | None) -> tuple[Command, ...]:
    """Return how a setting gets a value (None: the one below) where it is made."""
    role, in_database = place
    quoted = value if value is not None and name in _LISTS else literal(value or "")
    change = f"RESET {name}" if value is None else f"SET {name} = {quoted}"
    if place == SERVER:
        return look.sql(shard, f"ALTER SYSTEM {change}"), look.sql(shard, RELOAD)
    database = quote_identifier(look.facts[shard]["database"])
    if not role:
        return (look.sql(shard, f"ALTER DATABASE {database} {change}"),)
    within = f" IN DATABASE {database}" if in_database else ""
    return (look.sql(shard, f"ALTER ROLE {quote_identifier(role)}{within} {change}"),)


def _where(place: Place) -> str:
    role, in_database = place
    if place == SERVER:
        return "the server"
    of = f"role {role}" if role else "the database"
    return f"{of} in the database" if role and in_database else of


async def look_at_settings(look: Look) -> None:
    """What sessions begin with on each shard: what is refused, what harms, what differs."""
    wrong: set[tuple[Place, str]] = set()
    for shard in look.up:
        for place, name, value in _places(look.facts[shard]):
            kind, good = _judged(name, value)
            if kind and look.many:
                wrong.add((place, name))
                mend = _reset(look, shard, place, name, good if place == SERVER else None)
                look.add(kind, shard, name, f"{value}, set for {_where(place)}", *mend)
    if look.home in look.facts:
        _settings_differ(look, wrong)


def _judged(name: str, value: str) -> tuple[str, str]:
    """Return the finding that a setting's value is, if any, and what it should be."""
    if name == _SERIALIZABLE:
        return ("setting-serializable" if value.lower() == "serializable" else "", "read committed")
    good, kind = _MUST_BE.get(name, ("", ""))
    normal = _ON_OFF.get(value.lower(), value.lower()) if name in _SWITCHES else value.lower()
    return (kind if normal != good else "", good)


def _settings_differ(look: Look, wrong: set[tuple[Place, str]]) -> None:
    """Compare with home; what is ``wrong`` is said already."""
    values: dict[tuple[Place, str], dict[int, str]] = defaultdict(dict)
    for shard in look.up:
        for place, name, value in _places(look.facts[shard]):
            if name in SAME_EVERYWHERE and (place, name) not in wrong:
                values[place, name][shard] = value
    for (place, name), by_shard in sorted(values.items()):
        at_home = by_shard.get(look.home)
        for shard in look.up:
            if by_shard.get(shard) != at_home:
                here, there = (value if value is not None else "not set" for value in (by_shard.get(shard), at_home))
                mend = _reset(look, shard, place, name, at_home)
                look.add("settings-differ", shard, name, f"{here}, at home {there}, for {_where(place)}", *mend)
