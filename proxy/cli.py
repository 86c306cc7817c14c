"""The command line: the only place where everything is wired together.

Exit status: 0 all is well, 1 something outside is not (a shard, a port), 2 the command line or the configuration is
wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from proxy import commands, doctor, logs
from proxy.config import ConfigError, load
from proxy.errors import ProxyError
from proxy.server import serve
from proxy.shards.errors import ShardError
from proxy.tls import TlsError, TlsServer
from router.errors import Refused, SyntaxFailure

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

    from proxy.config import Config

OK = 0
FAILED = 1
MISTAKEN = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    options = parser().parse_args(arguments)
    logs.set_up(options.log_level or ("warning" if options.command == "demo" else "info"))
    try:
        return int(options.run(options))
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
    main_parser.add_argument("--version", action="version", version=f"pgchorus {version('pgchorus')}")
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
    command("serve", "serve clients", run_serve)
    command("check", "check a configuration alone, without the shards", run_check)
    command("init", "create the pgchorus schema on every shard", run_init)
    explain = command("explain", "show how a statement would be run", run_explain)
    explain.add_argument("--database", metavar="NAME", help="needed where the configuration has several")
    explain.add_argument("sql", metavar="SQL")
    command("recover", "finish transactions that were left behind, once", run_recover)
    command("doctor", "look at the shards: rights, schemas, misplaced rows, orphans", run_doctor)
    return main_parser


def run_serve(options: argparse.Namespace) -> int:
    """Serve until a signal says stop."""
    config = load(options.config)
    uvloop.run(serve(config, lambda: say_ready(config)))
    return OK


def say_ready(config: Config) -> None:
    """Say that the port accepts connections, in one line that scripts may wait for."""
    print(f"pgchorus: ready on {config.listen}", flush=True)


def run_check(options: argparse.Namespace) -> int:
    """Check a configuration."""
    config = load(options.config)
    if config.tls is not None:
        TlsServer(config.tls)
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
    return run(doctor.examine(load(options.config)))


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


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run one asynchronous command."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
