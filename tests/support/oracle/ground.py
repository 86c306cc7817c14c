"""Where statements run: one Postgres, and the proxy over several numbers of shards, with the same schema and rows."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databases import create_databases, drop_databases
from oracle.answers import Asker
from oracle.corpus import statements
from oracle.rows import rows
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Long runs share their machine with others: what is compared is answers, not how soon they come.
START_SECONDS = 120.0
PATIENCE = {"limits": {"fence": {"lock_ms": 60_000, "hold_ms": 60_000, "settle_s": 30, "bind_s": 30}}}
SCHEMA = Path(__file__).parents[2] / "differential" / "schema"


@dataclass(slots=True)
class Ground:
    """The oracle's DSN and the proxy's, by number of shards; ``process`` has the log."""

    one: str
    proxies: dict[int, str]
    process: ProxyProcess

    def askers(self) -> tuple[Asker, dict[int, Asker]]:
        """Open a connection to each; the caller closes them."""
        return Asker("one", self.one), {n: Asker(f"{n} shards", dsn) for n, dsn in self.proxies.items()}


def placements() -> dict[str, Any]:
    """Return where the tables of schema/ live."""
    found: dict[str, Any] = json.loads((SCHEMA / "tables.json").read_text())
    return found


def definitions() -> list[str]:
    """Return schema/'s statements and then those that fill the tables."""
    made = [sql for path in sorted(SCHEMA.glob("*.sql")) for _, _, sql in statements(path.read_text())]
    return made + rows()


def fill(dsns: Sequence[str], texts: Sequence[str]) -> None:
    """Run the same statements everywhere; each must succeed."""
    for dsn in dsns:
        asker = Asker(dsn, dsn)
        for text in texts:
            asker.must(text)
        asker.must("analyze")
        asker.close()


@contextmanager
def ground(counts: Sequence[int], servers: Sequence[EmbeddedServer] | None = None, **more: Any) -> Iterator[Ground]:
    """Give databases and a running proxy; ``servers`` are used if given, else made and stopped again."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgchorus-differential-")))
        directory.chmod(0o755)
        if servers is None:
            servers = [EmbeddedServer(directory / f"s{n}", durable=False) for n in range(max(counts))]
            start_all(servers)
            stack.callback(stop_all, servers)
        databases = {}
        for name, count in [("one", 1), *((f"over{n}", n) for n in counts)]:
            databases[name] = create_databases(servers[:count], name)
            stack.callback(drop_databases, servers[:count], name)
        (one,) = databases.pop("one")
        tables = more.pop("tables", None) or placements()
        process = ProxyProcess(write_config(directory / "pgchorus.yaml", databases, tables, **{**PATIENCE, **more}))
        stack.callback(process.close)
        process.start(START_SECONDS)
        yield Ground(one, {n: process.dsn(f"over{n}") for n in counts}, process)
