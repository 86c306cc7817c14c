"""The list of findings as a document: ``python -m proxy.doctor.page > docs/doctor.md`` (or ``make docs``).

Decides only how the page reads; the findings are :mod:`proxy.doctor.kinds`'.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from proxy.doctor.kinds import AREAS

if TYPE_CHECKING:
    from proxy.doctor.kind import Area

_HEAD: Final = """# pgchorus doctor

```console
$ pgchorus doctor -c pgchorus.yaml
```

looks at every shard of a configuration and says what is wrong, or will be: what it is, what it breaks, and the
commands that mend it. It changes nothing (but for this: a transaction that is decided already may be finished
on a shard while reference tables are compared, as any reader would do). It needs no proxy, and may run beside any
number of them.

| option | |
|---|---|
| `--json` | everything as one JSON document, instead of text |
| `--no-rows` | leave the rows alone: no misplaced rows, reference tables, sequences; takes a second |
| `--database NAME` | one database of the configuration |
| `--sql FINDING` | print the SQL that mends the findings of one kind, as a script for psql |
| `--timeout S` | of each statement on a shard (default: 30); what takes longer is `look-incomplete` |
| `--batch-pages N` | how much of a table is read by one statement, in pages (default: 2048, which are 16 MiB) |
| `--pause-ms N` | rest between two such statements (default: 0) |
| `--fail-on SEVERITY` | `error` (default), `warning` or `note`: what makes the exit status 1 |

Exit status: 0 when nothing as bad as `--fail-on` was found, 1 when something was (a shard that cannot be asked is an
error), 2 when the command line or the configuration is wrong.

Text comes the worst first, and ends with one line that sums up. In JSON, `findings` is a list: `id` (the name in the
lists below, which stays), `severity`, `database`, `shards`, `object`, `detail`, `what`, `breaks`, and `mend`, a list of
steps. Each step has `run` and `on`: the name of a shard (SQL to be run there, as the DSN's role), `psql` (a script that
connects where it has to), `shell`, `configuration` (what the file should say) or `by hand`. `status` is the exit
status.

Progress of what takes longer than a second goes to standard error. On each shard one statement of the doctor runs at a
time. Rows are read once, in batches of pages, each with the limit of `--timeout`; a reference table is compared at one
moment of all shards, behind the fence, and its snapshot is held until it has been read.

```console
$ pgchorus doctor -c pgchorus.yaml --sql rows-misplaced > mend.sql     # read it
$ psql -X -f mend.sql 'postgres://ROLE@HOST/DATABASE'    # any shard
```

Scripts print no passwords: psql finds them in `~/.pgpass` or `PGPASSWORD`. Where rows move or are copied between
shards, both sides are prepared before either is committed, and reads of several shards wait between the two commits.

Definitions are compared with the home shard's, whose catalog clients see: it is right, and the commands make the others
like it. If another shard is right, change home by DDL through a proxy, which goes everywhere.

`pgchorus check -c FILE`, and with `--json`, says what can be said of the configuration alone, without a network.
"""


_COLUMNS: Final = "| finding | severity | what it is | what it breaks | what mends it |\n|---|---|---|---|---|\n"


def document() -> str:
    """Return the whole page."""
    return _HEAD + "".join(map(_area, AREAS))


def _area(area: Area) -> str:
    rows = "".join(
        f"| `{kind.name}` | {kind.severity} | {_cell(kind.what)} | {_cell(kind.breaks)} | {_cell(kind.mend)} |\n"
        for kind in area.kinds
    )
    return f"\n## {area.title}\n\n{_COLUMNS}{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(document())
