"""A file in, frozen settings and ``router.cluster`` values out.

Decides what goes together in a configuration: what the form alone cannot say of one key. Leaves to others whether the
shards agree with it (``pgchorus doctor``, the start).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from proxy import config_values as values
from proxy.access import Rule
from proxy.config.form import FORM, TABLES_FORM
from proxy.config.reader import Reader
from proxy.config.settings import (
    CONSOLE_DATABASE,
    DEFAULT_PORT,
    Address,
    Auth,
    Config,
    Console,
    DatabaseConfig,
    Log,
    Tables,
    Tls,
    TracingTo,
)
from proxy.limits import Limits
from proxy.wire.scram import is_verifier
from router.cluster import DEFAULT_SLOTS, Cluster, Database, Home, Placement, Reference, Sharded, TableName, Vouch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_NEED_USERS = ("scram-sha-256", "md5", "password")


def load(file: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read a configuration; raises ConfigError with every mistake in it."""
    reader = Reader(file, os.environ if environment is None else environment)
    content = reader.load(FORM)
    _check_auth(reader, content["auth"], content["tls"], content["databases"] or {})
    databases = {
        name: made
        for name, database in (content["databases"] or {}).items()
        if database is not None and (made := _database(reader, name, database)) is not None
    }
    limits = Limits(
        **{
            f"{group}_{name}": value
            for group, part in (content["limits"] or {}).items()
            for name, value in (part or {}).items()
            if value is not None
        }
    )
    if CONSOLE_DATABASE in databases:
        reader.wrong(f"databases.{CONSOLE_DATABASE}", "is the name of the console", "give the database another name")
    if limits.fence_concurrent >= limits.control_per_shard:
        # Fences hold a control link to each shard while they wait for commits that need one to be finished.
        reader.wrong(
            "limits.fence.concurrent",
            f"is {limits.fence_concurrent}, and limits.control.per_shard is {limits.control_per_shard}",
            "leave at least one control link to each shard for finishing commits",
        )
    reader.check()
    auth = content["auth"]
    listen = content["listen"] or {"host": "127.0.0.1", "port": DEFAULT_PORT}
    return Config(
        file=str(file),
        cluster=Cluster(content["cluster"], {name: database.logical for name, database in databases.items()}),
        databases=databases,
        listen=Address(**listen),
        metrics=Address(**content["metrics"]) if content["metrics"] else None,
        workers=content["workers"] or min(len(os.sched_getaffinity(0)), values.MAX_WORKERS),
        auth=Auth(auth["method"], auth["users"] or {}, auth["shards"], _rules(auth)),
        limits=limits,
        tls=_tls(file, content["tls"]),
        console=Console(**(content["console"] or {})),
        log=_log(content["log"]),
        tracing=TracingTo(**content["tracing"]) if content["tracing"] else None,
        handover=file.parent / content["handover"] if content["handover"] is not None else None,
    )


def load_tables(file: Path) -> Tables:
    """Read a file that has only ``tables``, ``functions`` and ``slots``; raises ConfigError."""
    reader = Reader(file, {})
    content = reader.load(TABLES_FORM)
    tables = _tables(content)
    reader.check()
    return tables


def plain_tables(tables: Tables) -> dict[str, Any]:
    """Return placements as they stand in a file: the way back from ``load_tables``."""
    plain: dict[str, Any] = {
        "tables": {values.quoted_name(name): _plain(place) for name, place in tables.placements.items()}
    }
    if tables.functions:
        plain["functions"] = {name: vouch.value for name, vouch in tables.functions.items()}
    if tables.slots != DEFAULT_SLOTS:
        plain["slots"] = tables.slots
    return plain


def _plain(placement: Placement) -> object:
    if isinstance(placement, Sharded):
        return {"key": values.quoted(placement.key)}
    return "reference" if isinstance(placement, Reference) else "home"


def _rules(auth: dict[str, Any]) -> tuple[Rule, ...]:
    return tuple(Rule(name, **rule) for name, rule in (auth["rules"] or {}).items())


def _log(log: dict[str, Any] | None) -> Log:
    if log is None:
        return Log()
    switches = {name: log[name] != "off" for name in ("connections", "errors")}
    return Log(**{**log, **switches})


def _tls(file: Path, tls: dict[str, Any] | None) -> Tls | None:
    if tls is None:
        return None
    paths = {
        name: file.parent / tls[name] if tls[name] is not None else None for name in ("certificate", "key", "client_ca")
    }
    return Tls(paths["certificate"] or file, paths["key"], paths["client_ca"], tls["minimum_version"])


def _check_auth(
    reader: Reader, auth: dict[str, Any] | None, tls: dict[str, Any] | None, databases: Collection[str]
) -> None:
    if not auth:
        return
    users = auth["users"] or {}
    rules = {f"auth.rules.{name}": rule for name, rule in (auth["rules"] or {}).items() if rule is not None}
    methods = {path: rule["method"] for path, rule in rules.items()} | {"auth": auth["method"]}
    for path, method in methods.items():
        if method in _NEED_USERS and not users and not reader.mistakes:
            reader.wrong("auth.users", "nobody could log in", 'give users: {ROLE: "env:NAME"}, or method: trust')
        if method == "cert" and (tls is None or tls["client_ca"] is None):
            reader.wrong(f"{path}.method", "needs certificates of clients", "give tls.client_ca, which signs them")
        if method == "md5" and any(secret is not None and is_verifier(secret) for secret in users.values()):
            reader.wrong(f"{path}.method", "cannot use SCRAM verifiers", "use scram-sha-256 or password")
    for path, rule in rules.items():
        if rule["connection"] == "tls" and tls is None:
            reader.wrong(f"{path}.connection", "can never be: there is no tls section", "give tls, or leave it out")
        _check_names(reader, path, rule, users, databases)
    _check_verifiers(reader, auth, users)


def _check_names(
    reader: Reader, path: str, rule: dict[str, Any], users: Collection[str], databases: Collection[str]
) -> None:
    """A rule for nobody would let those by whom it was meant for."""
    for user in (rule["users"] or ()) if rule["method"] in _NEED_USERS and users else ():
        if user not in users:
            reader.wrong(f"{path}.users", f"{user} has no password in auth.users", "give one, or leave it out")
    for name in rule["databases"] or ():
        if name not in databases and name != CONSOLE_DATABASE:
            reader.wrong(f"{path}.databases", f"{name} is no database here", f"name one of {', '.join(databases)}")


def _check_verifiers(reader: Reader, auth: dict[str, Any], users: Mapping[str, str | None]) -> None:
    if auth["shards"] == "trust":
        return
    for user, secret in users.items():
        if secret is not None and is_verifier(secret):
            reader.wrong(
                f"auth.users.{user}",
                "is a SCRAM verifier, which lets a client in here but cannot log in to a shard",
                "give the password (env:NAME or file:PATH), or auth.shards: trust if the shards ask for none",
            )


def _database(reader: Reader, name: str, content: dict[str, Any]) -> DatabaseConfig | None:
    path = f"databases.{name}"
    shards: dict[str, str] = content["shards"] or {}
    _check_distinct(reader, f"{path}.shards", shards)
    home = content["home"]
    if home is not None and shards and home not in shards:
        reader.wrong(f"{path}.home", f"{home} is no shard of this database", f"name one of {', '.join(shards)}")
    tables = _tables(content)
    spread: tuple[str, ...] = content["spread"] or ()
    strange = [one for one in spread if shards and one not in shards]
    if strange or len(set(spread)) < len(spread):
        wrong = f"{strange[0]} is no shard of this database" if strange else "names a shard twice"
        reader.wrong(f"{path}.spread", wrong, f"name some of {', '.join(shards)}, or all")
    if tables.slots < len(shards):
        reader.wrong(f"{path}.slots", f"{tables.slots} slots for {len(shards)} shards", "give more slots than shards")
    if reader.mistakes:
        return None
    names = tuple(shards)
    holders = () if spread == names else tuple(map(names.index, spread))
    logical = Database(name, names, names.index(home), tables.placements, tables.functions, tables.slots, holders)
    return DatabaseConfig(logical, tuple(shards.values()), content["read_from"])


def _check_distinct(reader: Reader, path: str, shards: Mapping[str, str | None]) -> None:
    """Two shards in one place would have every row of a reference table twice."""
    seen: dict[tuple[object, ...], str] = {}
    for name, dsn in shards.items():
        if dsn is None:
            continue
        hosts, database = values.dsn_target(dsn)
        targets = [(host, database) for host in hosts]
        same = next((seen[target] for target in targets if target in seen), None)
        if same is not None:
            reader.wrong(f"{path}.{name}", f"is the same database as {same}", "give each shard its own")
        seen |= {target: name for target in targets if target not in seen}


def _tables(content: Mapping[str, Any]) -> Tables:
    placements: dict[TableName, Placement] = {}
    for table, place in (content["tables"] or {}).items():
        if isinstance(place, dict):
            placements[table] = Sharded(place["key"])
        elif place is not None:
            placements[table] = Reference() if place == "reference" else Home()
    functions = {name: Vouch(word) for name, word in (content["functions"] or {}).items() if word is not None}
    return Tables(placements, functions, content["slots"] or DEFAULT_SLOTS)
