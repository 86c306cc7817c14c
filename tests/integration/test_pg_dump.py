"""A dump of a rich schema, restored through the proxy: every shard has what one Postgres has, but for home tables.

And dumped through it again: the same dump.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from programs import run_well
from wire_client import WireClient

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

SCHEMA = Path(__file__).with_name("rich_schema.sql")
TABLES = {
    "shop.customers": {"key": "id"},
    "shop.orders": {"key": "customer"},
    "shop.events": {"key": "tenant"},
    "shop.countries": "reference",
}
AT_HOME = ("audit", "cache", "settings", "setting_count", "setting_names", "spent")
ROWS = """
INSERT INTO shop.countries VALUES (1, 'de', 'Germany'), (2, 'at', 'Austria');
INSERT INTO shop.customers (name, mail, mood, home, tags, country)
    SELECT 'n' || n, n || '@x', 'happy', ('s', n::text)::shop.address, '{a,b}', 1 + n % 2 FROM generate_series(1, 40) n;
INSERT INTO shop.orders (customer, total) SELECT id, id * 1.5 FROM shop.customers;
INSERT INTO shop.events SELECT n, '2024-06-01'::date + 40 * n, 'e' FROM generate_series(1, 30) n;
INSERT INTO shop.settings VALUES ('a', 'b');
REFRESH MATERIALIZED VIEW shop.spent
"""


def definitions(dsn: str, *more: str) -> set[str]:
    """Return the lines of a schema's dump, without what differs by design."""
    dump = run_well("pg_dump", "-d", dsn, "--schema-only", "--no-owner", "-n", "shop", "--restrict-key=a", *more)
    lines = (re.sub(r"CONSTRAINT \w+_not_null ", "", line).rstrip(",") for line in dump.splitlines())
    return {line for line in lines if line and not line.startswith("--") and "pgchorus_slot" not in line}


@pytest.mark.parametrize("inserts", [False, True], ids=["COPY", "INSERT"])
def test_a_dump_is_restored_through_the_proxy(
    make_databases: MakeDatabases, start_proxy: StartProxy, tmp_path: Path, *, inserts: bool
) -> None:
    one, shards = make_databases(1, "one")[0], make_databases(2, "rich")
    with psycopg.connect(one, autocommit=True) as connection:
        for statement in (*SCHEMA.read_text().split(";\n"), *ROWS.split(";\n")):
            if statement.strip():
                connection.execute(statement.encode())
    process = start_proxy(shards, TABLES)
    file = tmp_path / "dump.sql"
    file.write_text(run_well("pg_dump", "-d", one, "--no-owner", *(["--rows-per-insert=7"] if inserts else [])))
    through = process.dsn(shards[0].rpartition("/")[2])
    run_well("psql", "-X", "-q", "-d", through, "-v", "ON_ERROR_STOP=1", "-f", str(file))
    assert definitions(shards[0]) == definitions(one)
    without_home = [f"--exclude-table=shop.{name}*" for name in AT_HOME]
    assert definitions(shards[1]) == definitions(one, *without_home)
    expected, got = WireClient(one), WireClient(through)
    try:
        assert definitions(through) == definitions(one)
        rows = ("pg_dump", "--data-only", "--inserts", "-n", "shop", "--restrict-key=a", "-d")
        assert sorted(run_well(*rows, through).splitlines()) == sorted(run_well(*rows, one).splitlines())
        for query in (
            "select id, name, mail, mood::text, (home).zip, tags, score, full_text from shop.customers order by 1",
            "select * from shop.orders order by customer, id",
            "select * from shop.events order by at, tenant",
            "select * from shop.countries order by id",
            "select * from shop.settings",
            "select * from shop.spent order by name",
            "insert into shop.customers (name, mail) values ('new', 'n@x') returning id",
            "insert into shop.orders (customer) values (41) returning id, invoice",
        ):
            assert got.rows(query) == expected.rows(query)
    finally:
        expected.close()
        got.close()


def dumped(dsn: str, *more: str) -> list[str]:
    """Return the dump of a whole database but for what the proxy keeps there."""
    text = run_well("pg_dump", "-d", dsn, "-N", "pgchorus", "--no-owner", "--restrict-key=a", *more)
    return [line for line in text.splitlines() if "pgchorus" not in line and line.strip() not in ("", "--")]


def test_a_database_with_one_shard_is_dumped_and_restored_whole(
    make_databases: MakeDatabases, start_proxy: StartProxy, tmp_path: Path
) -> None:
    (source,), (target,) = make_databases(1, "source"), make_databases(1, "target")
    dsns = [start_proxy([shard], {}).dsn(shard.rpartition("/")[2]) for shard in (source, target)]
    with psycopg.connect(dsns[0], autocommit=True) as connection:
        for statement in (*SCHEMA.read_text().split(";\n"), *ROWS.split(";\n")):
            if statement.strip():
                connection.execute(statement.encode())
    assert dumped(dsns[0]) == dumped(source), "through the proxy as from the server"
    archive, contents = tmp_path / "whole.dump", tmp_path / "contents"
    run_well("pg_dump", "-Fc", "-d", dsns[0], "-N", "pgchorus", "-f", str(archive))
    listed = run_well("pg_restore", "-l", str(archive)).splitlines()
    contents.write_text("\n".join(line for line in listed if "pgchorus" not in line))
    run_well("pg_restore", "-d", dsns[1], "--no-owner", "--exit-on-error", "-1", "-L", str(contents), str(archive))
    whole = dumped(dsns[1])
    assert len(whole) > 300
    assert whole == dumped(target) == dumped(source)
