"""RELOAD with other placements: clients run through it, and what would move rows is refused and changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from databases import create_databases, drop_databases
from programs import environment, program
from tests.integration.conftest import made_town
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer
    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy
    from tests.integration.conftest import Town

CLIENTS = 6  # of both workers
HANDBOOK = Path(__file__).parents[2] / "docs" / "operations.md"


class House:
    """A proxy of two workers, and another proxy with a file of its own."""

    def __init__(self, town: Town, other: ProxyProcess) -> None:
        self.town = town
        self.other = other
        self.name = town.dsn.rpartition("/")[2]

    def client(self, process: ProxyProcess | None = None) -> psycopg.Connection[Any]:
        client = psycopg.connect((process or self.town.process).dsn(self.name), autocommit=True)
        client.prepare_threshold = None
        return client

    def place(self, process: ProxyProcess | None = None, **tables: Any) -> None:
        """Write tables into a configuration; None takes one out."""
        file = (process or self.town.process).config
        content = yaml.safe_load(file.read_text())
        placed = content["databases"][self.name].setdefault("tables", {})
        placed.update(tables)
        content["databases"][self.name]["tables"] = {name: how for name, how in placed.items() if how is not None}
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def add_shard(self, name: str, dsn: str, process: ProxyProcess | None = None) -> None:
        """Write a shard into a configuration, behind the others, that gets no rows."""
        file = (process or self.town.process).config
        content = yaml.safe_load(file.read_text())
        database = content["databases"][self.name]
        database["spread"] = ", ".join(one for one in database["shards"] if one != name)
        database["shards"][name] = dsn
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def stop(self) -> None:
        """End both proxies: this is the last test."""
        for process in (self.town.process, self.other):
            process.stop()

    def agree(self) -> None:
        """Give the other proxy the file of the first."""
        placed = yaml.safe_load(self.town.process.config.read_text())["databases"][self.name]["tables"]
        self.place(self.other, **placed)

    def reload(self, process: ProxyProcess | None = None) -> str:
        """RELOAD; return what it says against it, '' for nothing."""
        with psycopg.connect((process or self.town.process).dsn("pgchorus"), autocommit=True) as console:
            try:
                console.execute("RELOAD", prepare=False)
            except psycopg.Error as error:
                return error.diag.message_primary or "?"
        return ""

    @contextmanager
    def refused(self, words: str, **tables: Any) -> Iterator[None]:
        """See that these placements are refused with some words, and that all goes by the old ones."""
        before = self.town.process.config.read_text()
        stored = self.town.everywhere("SELECT p::text FROM pgchorus.placement p ORDER BY 1")
        self.place(**tables)
        assert words in self.reload()
        assert self.town.everywhere("SELECT p::text FROM pgchorus.placement p ORDER BY 1") == stored
        yield
        self.town.process.config.write_text(before)
        assert self.reload() == ""


@pytest.fixture(scope="module")
def _house(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[House]:
    more: dict[str, Any] = {"console": {"admins": "postgres"}}
    for town in made_town(3, make_module_databases, start_module_proxy, workers=2, **more):
        content = yaml.safe_load(town.process.config.read_text())
        name = town.dsn.rpartition("/")[2]
        tables = content["databases"][name]["tables"]
        yield House(town, start_module_proxy(town.shards, tables, workers=1, **more))


@pytest.fixture
def house(_house: House) -> Iterator[House]:
    _house.town.empty()
    yield _house
    eventually(lambda: not _house.town.busy(), "something was left behind on the shards")


class Traffic:
    """Clients that write two shards at once, and read all, until they are told to stop."""

    def __init__(self, house: House) -> None:
        self.errors: list[BaseException] = []
        self.rounds = [0] * CLIENTS
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(house, number)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, house: House, number: int) -> None:
        try:
            with closing(house.client()) as client:
                keys = [house.town.keys(shard, CLIENTS)[number] for shard in (0, 1)]
                while not self._stop.is_set():
                    with client.transaction():
                        for key in keys:
                            client.execute(
                                "INSERT INTO notes (k, n) VALUES (%s, 1) ON CONFLICT (k) DO UPDATE SET n = notes.n + 1",
                                (key,),
                            )
                    client.execute("SELECT count(*), sum(n) FROM notes").fetchone()
                    client.execute("UPDATE kinds SET name = 'x' WHERE id = %s", (number,))
                    self.rounds[number] += 1
        except BaseException as error:  # noqa: BLE001 - the test's thread says it
            self.errors.append(error)

    def goes_on(self) -> None:
        """Return when every client has got further."""
        before = list(self.rounds)
        eventually(
            lambda: self.errors or all(now > then + 1 for now, then in zip(self.rounds, before, strict=True)),
            "clients stand still",
        )
        assert not self.errors

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors


def test_clients_run_through_a_reload_that_places_new_tables(house: House) -> None:
    town = house.town
    with closing(house.client()) as client:
        client.execute(
            "INSERT INTO kinds (id, name) VALUES " + ", ".join(f"({number}, '')" for number in range(CLIENTS))
        )
    traffic = Traffic(house)
    try:
        traffic.goes_on()
        house.place(orders={"key": "customer"}, countries="reference")
        assert house.reload() == ""
        traffic.goes_on()
    finally:
        traffic.stop()
    keys = [town.keys(shard)[0] for shard in range(3)]
    with closing(house.client()) as client:
        client.execute("CREATE TABLE orders (customer int8 PRIMARY KEY, v text)")
        client.execute("CREATE TABLE countries (id int8 PRIMARY KEY)")
        client.execute("INSERT INTO countries VALUES (1)")
    for _ in range(4):  # by either worker
        with closing(house.client()) as client:
            for key in keys:
                client.execute("INSERT INTO orders VALUES (%s) ON CONFLICT DO NOTHING", (key,))
            assert client.execute("SELECT count(*) FROM orders").fetchone() == (3,)
    assert town.everywhere("SELECT customer FROM orders") == [[(key,)] for key in keys]
    assert town.everywhere("SELECT id FROM countries") == [[(1,)]] * 3
    assert sum(town.on_shard(shard, "SELECT coalesce(sum(n), 0)::int FROM notes")[0][0] for shard in (0, 1)) == (
        2 * sum(traffic.rounds)
    )


def test_another_proxy_plans_nothing_before_it_was_told_the_same(house: House) -> None:
    """It would look for the new table's rows at home only."""
    house.agree()
    assert house.reload(house.other) == ""
    with closing(house.client(house.other)) as away, closing(house.client()) as here:
        assert away.execute("SELECT count(*) FROM notes").fetchone() == (0,)
        house.place(parcels={"key": "k"})
        assert house.reload() == ""
        here.execute("CREATE TABLE parcels (k int8 PRIMARY KEY)")
        here.execute("INSERT INTO parcels SELECT generate_series(1, 20)")
        with pytest.raises(psycopg.errors.Error) as caught:
            away.execute("SELECT count(*) FROM parcels")
        assert caught.value.sqlstate == "F0000"
        assert "placements on the shards are not those of this proxy" in str(caught.value)
        house.agree()
        assert house.reload(house.other) == ""
        assert away.execute("SELECT count(*) FROM parcels").fetchone() == (20,)


def test_another_proxy_whose_file_says_the_same_follows_by_itself(house: House) -> None:
    house.place(letters={"key": "k"})
    house.agree()
    assert house.reload() == ""
    with closing(house.client(house.other)) as away, closing(house.client()) as here:
        here.execute("CREATE TABLE letters (k int8 PRIMARY KEY)")
        here.execute("INSERT INTO letters SELECT generate_series(1, 20)")
        assert away.execute("SELECT count(*) FROM letters").fetchone() == (20,)


def test_what_would_move_rows_is_refused_and_nothing_changes(house: House) -> None:
    with closing(house.client()) as client:
        client.execute("INSERT INTO notes SELECT generate_series(1, 20)")
        client.execute("INSERT INTO plain VALUES (1)")
        with house.refused(
            "public.notes is sharded by k and would be sharded by n, and has rows on shard", notes={"key": "n"}
        ):
            assert client.execute("SELECT count(*) FROM notes WHERE k = 7").fetchone() == (1,)
            client.execute("INSERT INTO notes SELECT generate_series(21, 40)")
        with house.refused("sharded table public.plain is missing on shard", plain={"key": "id"}):
            assert client.execute("SELECT count(*) FROM plain").fetchone() == (1,)
        with house.refused(
            "public.kinds is a reference table and would be on the home shard, and is there", kinds="home"
        ):
            client.execute("INSERT INTO kinds VALUES (1)")
        assert house.town.everywhere("SELECT id FROM kinds") == [[(1,)]] * 3
        assert client.execute("SELECT count(*) FROM notes").fetchone() == (40,)


def test_an_empty_table_gets_another_key(house: House) -> None:
    house.place(words={"key": "n"})
    assert house.reload() == ""
    with closing(house.client()) as client:
        client.execute("INSERT INTO words (word, n) SELECT 'w' || n, n FROM generate_series(1, 20) n")
        assert client.execute("SELECT word FROM words WHERE n = 7").fetchall() == [("w7",)]
        client.execute("TRUNCATE words")
    house.place(words={"key": "word"})
    assert house.reload() == ""


def test_a_transaction_that_stays_open_is_named_and_nobody_is_ended_for_it(house: House) -> None:
    with closing(house.client()) as open_one, closing(house.client()) as other:
        open_one.execute("BEGIN")
        open_one.execute("INSERT INTO plain VALUES (1)")
        with house.refused("1 transactions (of clients", late={"key": "k"}):
            assert other.execute("SELECT count(*) FROM plain").fetchone() == (0,)
            open_one.execute("COMMIT")
        assert other.execute("SELECT count(*) FROM plain").fetchone() == (1,)


def test_a_home_table_with_rows_is_spread_as_the_handbook_says(house: House) -> None:
    with closing(house.client()) as client:
        client.execute("CREATE TABLE parts (id int8 PRIMARY KEY, v text)")
        client.execute("INSERT INTO parts SELECT n, 'v' || n FROM generate_series(1, 20) n")
        with house.refused("sharded table public.parts is missing on shard", parts={"key": "id"}):
            client.execute("ALTER TABLE parts RENAME TO parts_at_home")
        house.place(parts={"key": "id"})
        assert house.reload() == ""
        client.execute("CREATE TABLE parts (id int8 PRIMARY KEY, v text)")
        client.execute("INSERT INTO parts SELECT * FROM parts_at_home")
        client.execute("DROP TABLE parts_at_home")
        assert client.execute("SELECT count(*), max(v) FROM parts").fetchone() == (20, "v9")
    assert all(house.town.everywhere("SELECT id FROM parts"))


def dumped_schema(source: str, target: str, directory: Path) -> None:
    """Give a database the schema of another, by the handbook's own commands."""
    (commands,) = re.findall(r"```\n(\s+pg_dump .*?)```", HANDBOOK.read_text(encoding="utf-8"), re.DOTALL)
    path = os.pathsep.join([str(Path(program("psql")).parent), os.environ["PATH"]])
    shards = {"SHARD_1_DSN": source, "SHARD_2_DSN": target}
    shell = ["bash", "-euc", commands]
    done = subprocess.run(
        shell, cwd=directory, env={**environment(), "PATH": path, **shards}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def through_the_other(house: House, joining: str) -> None:
    """See that the other proxy has followed."""
    with closing(house.client(house.other)) as away:
        assert away.execute("SELECT count(*) FROM made").fetchone() == (40,)
        away.execute("INSERT INTO kinds VALUES (78, 'by the other')")
    with psycopg.connect(joining, autocommit=True) as late:
        assert late.execute("SELECT count(*) FROM kinds WHERE id IN (77, 78)").fetchone() == (2,)


def test_a_shard_joins_while_clients_write(house: House, servers: list[EmbeddedServer], tmp_path: Path) -> None:
    """It gets the copies of reference tables, and what is written to them meanwhile and afterwards."""
    town = house.town
    house.agree()
    (joining,) = create_databases(servers[3:4], f"{house.name}")
    try:
        with closing(house.client()) as client:
            client.execute("INSERT INTO kinds VALUES " + ", ".join(f"({number}, '')" for number in range(CLIENTS)))
        refused_before = town.everywhere("SELECT m::text FROM pgchorus.meta m")
        house.add_shard("late", joining)
        assert "public.notes is missing on shard late" in house.reload()
        dumped_schema(town.shards[1], joining, tmp_path)
        with psycopg.connect(joining, autocommit=True) as late:
            late.execute("CREATE INDEX more ON notes (v)")
            assert "has not the schema of shard s1: they differ in index public.more of public.notes" in house.reload()
            late.execute("DROP INDEX more")
            late.execute("INSERT INTO kinds VALUES (0, 'another')")
            assert "has other rows in the reference table public.kinds than shard s1" in house.reload()
            late.execute("TRUNCATE kinds")
        assert town.everywhere("SELECT m::text FROM pgchorus.meta m") == refused_before
        house.add_shard("late", joining, house.other)
        traffic = Traffic(house)
        try:
            traffic.goes_on()
            assert house.reload() == ""
            traffic.goes_on()
        finally:
            traffic.stop()
        with psycopg.connect(joining, autocommit=True) as late, closing(house.client()) as client:
            names = "SELECT id, name FROM kinds ORDER BY id"
            assert late.execute(names).fetchall() == town.on_shard(0, names)
            client.execute("INSERT INTO kinds VALUES (77, 'after')")
            assert late.execute("SELECT name FROM kinds WHERE id = 77").fetchall() == [("after",)]
            client.execute("CREATE TABLE made (k int8 PRIMARY KEY, n serial)")
            client.execute("INSERT INTO made (k) SELECT generate_series(1, 40)")
            assert client.execute("SELECT count(*), max(n) FROM made").fetchone() == (40, 40)
            assert late.execute("SELECT count(*) FROM made").fetchone() == (0,)
            with pytest.raises(psycopg.errors.CheckViolation):
                late.execute("INSERT INTO made (k, n) VALUES (1, 1)")
        through_the_other(house, joining)
        house.town.process.restart()
        with closing(house.client()) as client:
            assert client.execute("SELECT count(*) FROM made").fetchone() == (40,)
    finally:
        house.stop()
        drop_databases(servers[3:4], house.name)
