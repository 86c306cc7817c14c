"""The command line: the only place where everything is wired together.

Exit status: 0 all is well, 1 something outside is not (a shard, a port, what ``doctor`` finds), 2 the command line or
the configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import uvloop

from proxy import commands, logs
from proxy.build import build
from proxy.config import ConfigError, load
from proxy.doctor import configuration, report
from proxy.doctor.examine import examine
from proxy.doctor.kind import Severity
from proxy.doctor.kinds import KINDS
from proxy.doctor.look import Options, psql_target
from proxy.errors import ProxyError
from proxy.handover import Taken, take_over
from proxy.server import serve
from proxy.shards.errors import ShardError
from proxy.supervisor.watch import supervise
from proxy.tls import TlsError, TlsServer
from router.errors import Refused, SyntaxFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from proxy.config import Config

T = TypeVar("T")

# Chains of operators are as deep in the tree as they are long: some thousand terms, as Postgres takes them.
RECURSION_LIMIT: Final = 20_000
OK = 0
FAILED = 1
MISTAKEN = 2
INTERRUPTED = 130
#: Commands that log less unless they are told otherwise: they have something to show.
_QUIET = {"demo": "warning", "top": "error"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    options = parser().parse_args(arguments)
    sys.setrecursionlimit(RECURSION_LIMIT)
    logs.set_up(options.log_level or _QUIET.get(options.command, "info"))
    return guarded(lambda: int(options.run(options)))


def guarded(run: Callable[[], int]) -> int:
    """Run something and return its exit status; an error that is somebody's is said to a person."""
    try:
        return run()
    except ConfigError as error:
        say(str(error))
        return MISTAKEN
    except TlsError as error:
        say(f"pgchorus: {error}")
        return MISTAKEN
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ShardError, ProxyError, Refused, SyntaxFailure, OSError) as error:
        say(f"pgchorus: {describe_error(error)}")
        return FAILED


def describe_error(error: Exception) -> str:
    """Return an error with its detail and hint, for a person."""
    if isinstance(error, ShardError):
        parts = [error.fields.message, error.fields.detail, error.fields.hint]
    elif isinstance(error, ProxyError | Refused):
        parts = [error.message, error.detail, error.hint]
    else:
        parts = [str(error)]
    return "\n  ".join(part for part in parts if part)


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    main_parser = argparse.ArgumentParser(
        prog="pgchorus", description="Many Postgres servers, one voice.", allow_abbrev=False
    )
    main_parser.add_argument("--version", action="version", version=f"pgchorus {version('pgchorus')} ({build()})")
    main_parser.add_argument("--log-level", choices=logs.LEVELS, help="default: info; of the demo: warning")
    kinds = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, run: Any, *, config: bool = True) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        made.set_defaults(run=run)
        if config:
            made.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="the configuration")
        return made

    demo = command("demo", "start embedded Postgres servers and the proxy before them", run_demo, config=False)
    demo.add_argument("--shards", metavar="N", type=int, help="how many servers (default: 3, or what DIR has)")
    demo.add_argument("--port", metavar="P", type=int, default=6432, help="the proxy's port (default: %(default)s)")
    demo.add_argument("--data", metavar="DIR", type=Path, help="keep everything in DIR (default: gone at the end)")
    demo.add_argument("--config", metavar="FILE", type=Path, help="place the tables of FILE (tables: ...), no shop")
    demo.add_argument("--shards-only", action="store_true", help="start the servers, no proxy")
    serving = command("serve", "serve clients", run_serve)
    serving.add_argument(
        "--takeover", action="store_true", help="take the port over from the proxy that runs (the key handover)"
    )
    check = command("check", "check a configuration alone, without the shards", run_check)
    check.add_argument("--json", action="store_true", help="one JSON document instead of text")
    command("init", "create the pgchorus schema on every shard", run_init)
    explain = command("explain", "show how a statement would be run", run_explain)
    explain.add_argument("--database", metavar="NAME", help="needed where the configuration has several")
    explain.add_argument("sql", metavar="SQL")
    command("recover", "finish transactions that were left behind, once", run_recover)
    top = command("top", "watch a running proxy in the terminal", run_top, config=False)
    what = top.add_mutually_exclusive_group(required=True)
    what.add_argument("dsn", metavar="DSN", nargs="?", help="its console: postgres://ops@127.0.0.1:6432/pgchorus")
    what.add_argument("-c", "--config", metavar="FILE", type=Path, help="the configuration that it serves")
    top.add_argument("--interval", metavar="S", type=float, default=2.0, help="between two looks (%(default)s)")
    _doctor_options(command("doctor", "look at the shards: rights, schemas, misplaced rows, orphans", run_doctor))
    return main_parser


def _doctor_options(doctor: argparse.ArgumentParser) -> None:
    form = doctor.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of text")
    form.add_argument("--sql", metavar="FINDING", choices=sorted(KINDS), help="the SQL that mends one kind of finding")
    doctor.add_argument("--database", metavar="NAME", help="one database of the configuration (default: all)")
    doctor.add_argument("--no-rows", action="store_true", help="do not read the rows of tables")
    doctor.add_argument("--timeout", metavar="S", type=float, default=30.0, help="of one statement (%(default)s)")
    doctor.add_argument("--batch-pages", metavar="N", type=int, default=2048, help="read by one (%(default)s)")
    doctor.add_argument("--pause-ms", metavar="N", type=int, default=0, help="between two (%(default)s)")
    severities = [str(severity) for severity in Severity]
    doctor.add_argument("--fail-on", choices=severities, default="error", help="exit status 1 for it (%(default)s)")


def run_serve(options: argparse.Namespace) -> int:
    """Serve until a signal says stop."""
    config = load(options.config)
    if options.takeover and config.handover is None:
        say(f"pgchorus serve: --takeover needs the key handover in {options.config}")
        return MISTAKEN
    logs.set_up(options.log_level or config.log.level, config.log.format)
    taken = take_over(config) if options.takeover else Taken()
    if config.workers > 1:
        return supervise(config, lambda: say_ready(config), lambda work: guarded(lambda: _run_worker(work)), taken)
    uvloop.run(serve(config, lambda: say_ready(config), taken=taken))
    return OK


def _run_worker(work: Coroutine[Any, Any, None]) -> int:
    uvloop.run(work)
    return OK


def say_ready(config: Config) -> None:
    """Say that the port accepts connections, in one line that scripts may wait for."""
    print(f"pgchorus: ready on {config.listen}", flush=True)


def run_check(options: argparse.Namespace) -> int:
    """Check a configuration."""
    try:
        config = load(options.config)
        if config.tls is not None:
            TlsServer(config.tls)
    except ConfigError as error:
        if not options.json:
            raise
        print(report.as_json(configuration.mistakes(error.mistakes), MISTAKEN, file=str(options.config)))
        return MISTAKEN
    found = configuration.look_at_configuration(config)
    if options.json:
        print(report.as_json(found, OK, file=str(options.config)))
        return OK
    for line in report.finding_lines(found, str(options.config), partial(_psql_target, config)):
        print(line)
    for name, database in config.cluster.databases.items():
        print(f"{name}: {len(database.shards)} shards, {len(database.placements)} tables placed")
    print(f"{options.config}: no mistakes")
    return OK


def run_init(options: argparse.Namespace) -> int:
    """Create the schema."""
    return run(commands.init(load(options.config)))


def run_recover(options: argparse.Namespace) -> int:
    """Recover once."""
    return run(commands.recover(load(options.config)))


def run_doctor(options: argparse.Namespace) -> int:
    """Look at the shards."""
    config = load(options.config)
    if options.database not in (None, *config.databases):
        say(f"pgchorus doctor: no database {options.database}; there are {', '.join(config.databases)}")
        return MISTAKEN
    file = shlex.quote(str(options.config))
    asked = Options(
        rows=not options.no_rows,
        timeout_s=options.timeout,
        batch_pages=max(1, options.batch_pages),
        pause_ms=max(0, options.pause_ms),
        config=file,
    )
    done = run(examine(config, asked, report.Progress(), options.database))
    status = report.status(done.findings, Severity[options.fail_on.upper()])
    if options.json:
        print(report.as_json(done.findings, status, databases=done.databases, rows_read=done.rows))
        return status
    if options.sql:
        lines = report.as_sql(done.findings, options.sql, partial(_psql_target, config))
    else:
        lines = report.for_people(done, file, partial(_psql_target, config))
    for line in lines:
        print(line)
    return status


def _psql_target(config: Config, name: str, shard: str) -> str:
    database = config.databases[name]
    return psql_target(database.dsns[database.logical.shards.index(shard)])


def run_explain(options: argparse.Namespace) -> int:
    """Show a plan."""
    config = load(options.config)
    names = list(config.databases)
    if options.database is None and len(names) > 1:
        say(f"pgchorus explain: which database? use --database with one of {', '.join(names)}")
        return MISTAKEN
    name = options.database or names[0]
    if name not in config.databases:
        say(f"pgchorus explain: no database {name}; there are {', '.join(names)}")
        return MISTAKEN
    return run(commands.explain(config, name, options.sql))


def run_top(options: argparse.Namespace) -> int:
    """Show a running proxy. Imported here: only this needs textual."""
    try:
        from proxy.top.screen import Top  # noqa: PLC0415 - see above
    except ImportError as error:
        say(f"pgchorus top: needs textual ({error.name} is missing): pip install 'pgchorus[top]'")
        return FAILED
    from proxy.top.source import Console, console_of  # noqa: PLC0415 - with the above

    source = Console(options.dsn) if options.dsn else console_of(load(options.config))
    Top(source, max(options.interval, 0.1)).run()
    return OK


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo. Imported here: only the demo needs the embedded Postgres."""
    from proxy.demo import run as demo  # noqa: PLC0415 - see above

    try:
        return demo.run(
            demo.Options(
                shards=options.shards,
                port=options.port,
                data=options.data,
                tables=options.config,
                shards_only=options.shards_only,
            )
        )
    except demo.DemoError as error:
        say(f"pgchorus demo: {error}")
        return FAILED


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one asynchronous command."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
