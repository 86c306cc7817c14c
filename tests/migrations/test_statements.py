"""What migration tools send, as files: one Postgres and the proxy over one and two shards answer alike, and hold alike.

`rails.sql` has the forms that Rails sends, `more.sql` what people write into migrations by hand. Django and Alembic run
themselves: test_tools.py.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dumps import definitions, only_at_home, stored
from wire_client import Twins, WireClient

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

FILES = Path(__file__).with_name("statements")
TABLES = {
    "rails": {"users": {"key": "id"}, "orders": {"key": "user_id"}, "countries": "reference"},
    "more": {"more.rows": {"key": "k"}, "more.parts": {"key": "k"}, "more.kinds": "reference"},
}


def statements(name: str) -> list[str]:
    """Return the statements of a file: each ends at the end of a line."""
    lines = [line for line in (FILES / f"{name}.sql").read_text().splitlines() if not line.startswith("--")]
    return ["".join(part) for part in "\n".join(lines).split(";\n") if part.strip()]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", list(TABLES))
def test_a_file_of_statements(name: str, count: int, make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    one, shards = make_databases(1, "one")[0], make_databases(count, name)
    through = start_proxy(shards, TABLES[name]).dsn(shards[0].rpartition("/")[2])
    with closing(Twins(WireClient(one), WireClient(through))) as twins:
        for statement in statements(name):
            trace = twins.query(statement)
            assert not [entry for entry in trace if entry[0] == "error"], (statement, trace)
    assert definitions(shards[0]) == definitions(one)
    if count > 1:
        assert definitions(shards[1]) == definitions(one, without=only_at_home(shards))
    assert stored(through) == stored(one)
