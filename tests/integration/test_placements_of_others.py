"""While a proxy's placements are not those of the shards: blocks end, nothing else is done, and it follows."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.conftest import made_town
from tests.integration.test_placements_by_reload import House
from waiting import eventually
from wire_client import SYNC, WireClient, bind, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy


@pytest.fixture(scope="module", params=[1, 2])
def _house(
    request: pytest.FixtureRequest, make_module_databases: MakeDatabases, start_module_proxy: StartProxy
) -> Iterator[House]:
    more: dict[str, Any] = {"console": {"admins": "postgres"}}
    for town in made_town(3, make_module_databases, start_module_proxy, workers=1, **more):
        content = yaml.safe_load(town.process.config.read_text())
        tables = content["databases"][town.dsn.rpartition("/")[2]]["tables"]
        yield House(town, start_module_proxy(town.shards, tables, workers=request.param, **more))


@pytest.fixture
def house(_house: House) -> Iterator[House]:
    _house.town.empty()
    _house.agree()
    assert _house.reload(_house.other) == ""
    yield _house
    eventually(lambda: not _house.town.busy(), "something was left behind on the shards")


def away(house: House) -> WireClient:
    return WireClient(house.other.dsn(house.name))


def told(client: WireClient, text: str) -> tuple[list[str], list[str], str]:
    """Return the SQLSTATEs of errors, the tags, and the status behind a statement."""
    trace = client.query(text)
    return sqlstates(trace), [str(entry[1]) for entry in trace if entry[0] == "tag"], str(trace[-1][1])


def test_blocks_end_where_placements_are_not_those_of_the_shards(house: House) -> None:
    keys = [house.town.keys(shard)[0] for shard in (0, 1)]
    write = [f"INSERT INTO notes (k, n) VALUES ({key}, 1)" for key in keys]
    names = ("good", "one", "both", "failed", "failed2", "empty", "empty2", "saved", "chained", "idle", "extended")
    clients = {name: away(house) for name in names}
    try:
        for name in names:
            if name != "idle":
                clients[name].query("BEGIN")
        named = clients["extended"].ask(parse("COMMIT", "c"), parse("ROLLBACK", "r"), SYNC)
        assert sqlstates(named) == []
        for number, name in enumerate(("good", "one")):
            clients[name].query(f"INSERT INTO plain VALUES ({number})")
        for text in write:
            clients["both"].query(text)
        clients["saved"].query("SAVEPOINT s")
        clients["chained"].query("SELECT 1")
        clients["extended"].query("SELECT 1")
        for name in ("failed", "failed2"):
            clients[name].query("SELECT 1/0")

        house.place(others_had={"key": "k"})
        assert house.reload() == ""
        eventually(lambda: sqlstates(clients["idle"].query("SELECT 1")) == ["F0000"], "it has not noticed")

        assert told(clients["idle"], "BEGIN") == (["F0000"], [], "I")
        assert told(clients["idle"], "ROLLBACK") == ([], ["ROLLBACK"], "I")
        assert told(clients["good"], "SELECT count(*) FROM notes") == (["F0000"], [], "E")
        assert told(clients["good"], "ROLLBACK; SELECT 1") == (["F0000"], [], "E")
        assert told(clients["good"], "rollback") == ([], ["ROLLBACK"], "I")
        assert told(clients["one"], "COMMIT") == (["F0000"], [], "I")
        assert told(clients["both"], "COMMIT AND CHAIN") == (["F0000"], [], "I")
        assert told(clients["failed"], "ROLLBACK") == ([], ["ROLLBACK"], "I")
        assert told(clients["failed2"], "COMMIT") == ([], ["ROLLBACK"], "I")
        assert told(clients["empty"], "COMMIT") == ([], ["COMMIT"], "I")
        assert told(clients["empty2"], "/* a word */ ROLLBACK -- and another") == ([], ["ROLLBACK"], "I")
        assert told(clients["saved"], "SELECT 1") == (["F0000"], [], "E")
        assert told(clients["saved"], "ROLLBACK TO s") == ([], ["ROLLBACK"], "T")
        assert told(clients["saved"], "COMMIT") == ([], ["COMMIT"], "I")
        assert told(clients["chained"], "ROLLBACK AND CHAIN") == ([], ["ROLLBACK"], "T")
        ended = clients["chained"].ask(parse("ROLLBACK"), bind(), execute(), SYNC)
        assert (sqlstates(ended), str(ended[-1][1])) == ([], "I")
        commit = clients["extended"].ask(bind(statement="c"), execute(), SYNC)
        assert (sqlstates(commit), str(commit[-1][1])) == (["F0000"], "I")
        assert sqlstates(clients["extended"].ask(bind(statement="r"), execute(), SYNC)) == []
        assert house.town.everywhere("SELECT k FROM notes") == [[], [], []]
        assert house.town.on_shard(0, "SELECT id FROM plain") == []

        house.agree()
        assert house.reload(house.other) == ""
        assert told(clients["good"], "SELECT count(*) FROM notes") == ([], ["SELECT 1"], "I")
    finally:
        for client in clients.values():
            client.close()


def test_a_proxy_whose_blocks_did_not_end_in_time_reads_its_file_when_they_have(house: House) -> None:
    """And the log has it once, however often it was tried."""
    before = len(house.other.log.read_text())

    def said(words: str) -> int:
        return house.other.log.read_text()[before:].count(words)

    with closing(away(house)) as open_one, closing(away(house)) as other:
        open_one.query("BEGIN")
        open_one.query("INSERT INTO plain VALUES (1)")
        house.place(followed={"key": "k"})
        house.agree()
        assert house.reload() == ""
        eventually(
            lambda: said("placements could not be read again"), "it was not tried, or blocks were not waited for"
        )
        assert told(other, "SELECT 1") == (["F0000"], [], "I")
        assert told(open_one, "COMMIT") == (["F0000"], [], "I")
        eventually(lambda: sqlstates(other.query("SELECT 1")) == [], "it has not tried again")
        assert told(open_one, "SELECT count(*) FROM plain") == ([], ["SELECT 1"], "I")
    assert house.town.on_shard(0, "SELECT id FROM plain") == []
    assert said("not reloaded, all stays as it was") <= 2  # once for each worker
