"""Other proxies than PgBouncer, each before the database of ``direct`` where its program is installed.

They stand where PgBouncer stands, before one server, because pgbench's script runs there as it is: over several servers
none of them commits atomically by default, and each wants its keys declared in its own way. So what is compared is what
they take for each transaction that they pass on.

Decides what each is told, and how it is started; each was run like that (bench/README.md says which versions). One that
does not start is left out, with its own words.

https://www.pgpool.net/docs/latest/en/html/ https://github.com/postgresml/pgcat/blob/main/CONFIG.md
https://docs.pgdog.dev/configuration/ https://docs.pg-sharding.tech/
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.contenders import (
    ONE_SERVER_DATABASE,
    UNPRIVILEGED,
    child,
    pids_of,
    psql,
    temporary_directory_for,
    wait_for_port,
)
from bench.model import MODES, BenchError, Contender, Target
from proxy.demo.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from proxy.demo.embedded import EmbeddedServer

SESSION_POOLING = "session pooling"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy stands: what it listens on, the server behind it, its directory; ``spare``: ports of its own."""

    listen: Target
    server: Target
    links: int
    directory: Path
    spare: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Other:
    """How one proxy is started: its files, by name, and its arguments. ``mark``: what stands beside its title."""

    name: str
    title: str
    program: str
    files: Callable[[Place], dict[str, str]]
    arguments: tuple[str, ...]
    version: tuple[str, ...] = ("--version",)
    mark: str = ""


def pgpool_files(place: Place) -> dict[str, str]:
    """Return pgpool.conf: one backend in raw mode, a process for each client, nothing that looks after the server."""
    settings = {
        "backend_clustering_mode": "'raw'",
        "listen_addresses": f"'{place.listen.host}'",
        "port": place.listen.port,
        "socket_dir": f"'{place.directory}'",
        "pcp_port": place.spare[0],
        "pcp_listen_addresses": "''",
        "pcp_socket_dir": f"'{place.directory}'",
        "backend_hostname0": f"'{place.server.host}'",
        "backend_port0": place.server.port,
        "backend_weight0": 1,
        "enable_pool_hba": "off",
        "num_init_children": place.links,
        "max_pool": 1,
        "load_balance_mode": "off",
        "sr_check_period": 0,
        "health_check_period": 0,
        "pid_file_name": f"'{place.directory / 'pgpool.pid'}'",
        "logdir": f"'{place.directory}'",
        "work_dir": f"'{place.directory}'",
    }
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    return {"pgpool.conf": lines, "pcp.conf": "", "pool_hba.conf": ""}


def pgcat_files(place: Place) -> dict[str, str]:
    """Return pgcat.toml: one pool of one shard in transaction pooling, which follows prepared statements."""
    pool = f"pools.{place.listen.database}"
    return {
        "pgcat.toml": f"""\
[general]
host = "{place.listen.host}"
port = {place.listen.port}
enable_prometheus_exporter = false
connect_timeout = 5000
worker_threads = 2
admin_username = "{place.server.user}"
admin_password = ""
admin_auth_type = "trust"

[{pool}]
pool_mode = "transaction"
default_role = "primary"
query_parser_enabled = false
prepared_statements_cache_size = 500

[{pool}.users.0]
username = "{place.server.user}"
password = ""
auth_type = "trust"
pool_size = {place.links}

[{pool}.shards.0]
servers = [["{place.server.host}", {place.server.port}, "primary"]]
database = "{place.server.database}"
"""
    }


def pgdog_files(place: Place) -> dict[str, str]:
    """Return pgdog.toml and users.toml: one database in transaction pooling."""
    return {
        "pgdog.toml": f"""\
[general]
host = "{place.listen.host}"
port = {place.listen.port}
workers = 2
default_pool_size = {place.links}
pooler_mode = "transaction"
auth_type = "trust"

[[databases]]
name = "{place.listen.database}"
host = "{place.server.host}"
port = {place.server.port}
database_name = "{place.server.database}"
""",
        "users.toml": f"""\
[[users]]
name = "{place.server.user}"
database = "{place.listen.database}"
password = "trusted"
""",
    }


def spqr_files(place: Place) -> dict[str, str]:
    """Return the router's YAML and the SQL that tells it the keys: one shard, which has all of each table."""
    relations = {"accounts": "aid", "branches": "bid", "tellers": "tid", "history": "aid"}
    attached = "".join(
        f"ALTER DISTRIBUTION all_rows ATTACH RELATION pgbench_{table} DISTRIBUTION KEY {key};\n"
        for table, key in relations.items()
    )
    return {
        "init.sql": "CREATE DISTRIBUTION all_rows COLUMN TYPES integer;\n"
        "CREATE KEY RANGE everything FROM 0 ROUTE TO sh1 FOR DISTRIBUTION all_rows;\n" + attached,
        "router.yaml": f"""\
log_level: error
host: '{place.listen.host}'
router_port: '{place.listen.port}'
admin_console_port: '{place.spare[0]}'
grpc_api_port: '{place.spare[1]}'
router_mode: PROXY
init_sql: init.sql
use_init_sql: true
exit_on_init_sql: true
show_notice_messages: false
frontend_rules:
  - usr: {place.server.user}
    db: {place.listen.database}
    pool_mode: TRANSACTION
    pool_prepared_statement: true
    auth_rule:
      auth_method: ok
backend_rules:
  - usr: {place.server.user}
    db: {place.listen.database}
    connection_limit: {place.links}
    pool_discard: false
    pool_rollback: true
shards:
  sh1:
    type: DATA
    tls:
      sslmode: disable
    hosts:
      - '{place.server.host}:{place.server.port}'
""",
    }


OTHERS = (
    Other(
        "pgpool",
        "Pgpool-II",
        "pgpool",
        pgpool_files,
        ("-n", "-f", "pgpool.conf", "-F", "pcp.conf", "-a", "pool_hba.conf"),
        mark=SESSION_POOLING,
    ),
    Other("pgcat", "PgCat", "pgcat", pgcat_files, ("pgcat.toml",)),
    Other("pgdog", "PgDog", "pgdog", pgdog_files, ("--config", "pgdog.toml", "--users", "users.toml")),
    Other("spqr", "SPQR", "spqr-router", spqr_files, ("run", "--config", "router.yaml")),
)


def find(program: str) -> str | None:
    """Return a program's path where it is installed (often in sbin, which users do not have in their path)."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def version_said(program: str, *arguments: str) -> str:
    """Return the first line of what a program says of its version, wherever it says it (Pgpool-II: where errors go)."""
    done = subprocess.run(
        [program, *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
    )
    return next(iter(done.stdout.splitlines()), "")


@contextmanager
def standing_before(other: Other, program: str, server: EmbeddedServer, links: int) -> Iterator[Contender]:
    """Yield a proxy that answers; BenchError if it does not."""
    # SPQR's databases are called as the shards' are, so all of them are.
    behind = Target(server.port, ONE_SERVER_DATABASE)
    ports: list[int] = [server.port]
    for _ in range(3):
        ports.append(free_port(ports))
    target = Target(ports[1], ONE_SERVER_DATABASE)
    with temporary_directory_for(UNPRIVILEGED) as (directory, account):
        for name, text in other.files(Place(target, behind, links, directory, (ports[2], ports[3]))).items():
            (directory / name).write_text(text)
        log = directory / "log"
        with child([program, *other.arguments], directory, log, account) as process:
            wait_for_port(process, target.port, log)
            psql(server.program("psql"), target, "SELECT 1")
            marks = dict.fromkeys(MODES, other.mark) if other.mark else {}
            yield Contender(
                other.name,
                other.title,
                dict.fromkeys(MODES, target),
                (behind,),
                pids_of([server]),
                process.pid,
                (),
                version_said(program, *other.version),
                marks,
            )


def start_others(server: EmbeddedServer, links: int, stack: ExitStack) -> tuple[list[Contender], list[str]]:
    """Start those that are installed; return them, and why others are missing."""
    found: list[Contender] = []
    notices: list[str] = []
    missing: list[str] = []
    for other in OTHERS:
        program = find(other.program)
        if program is None:
            missing.append(other.title)
            continue
        try:
            found.append(stack.enter_context(standing_before(other, program, server, links)))
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            notices.append(f"{other.title} is installed, but did not start as it is configured here: {error}")
    return found, [*notices, *missing_notice(missing)]


def missing_notice(titles: Sequence[str]) -> list[str]:
    """Return what the report says of those that are not installed."""
    return [f"Not compared, because not installed here: {', '.join(titles)}."] if titles else []
