"""More clients than links: statements wait in the lane for a link, and nobody can tell from the answers.

Each test has two clients hold both links of shard 1 in blocks of their own; whoever then comes must wait. That they
wait in the lane is seen by its count: it grows when they go on, by as many as they are.
"""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, WireClient, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lane

    Connect = Callable[..., WireClient]

TIMES = 3  # the second text of a template teaches it
READ = "SELECT n FROM notes WHERE k = $1"
ADD = "UPDATE notes SET n = n + 1 WHERE k = $1 RETURNING n"
WAYS = ["simple", "extended", "prepared"]


def asked(way: str, text: str, key: int) -> list[Any]:
    """Return the messages of a statement with one parameter."""
    if way == "simple":
        return [Query(text.replace("$1", str(key)).encode())]
    ending = [bind(b"%d" % key, statement="" if way == "extended" else text), describe("P"), execute(), SYNC]
    return [parse(text), *ending] if way == "extended" else ending


class Crowd:
    """Holders of all links of shard 1, and those who wait for one."""

    def __init__(self, lane: Lane, connect: Connect) -> None:
        self.lane = lane
        self.key = lane.town.keys(1)[0]
        self.holders = [connect(lane.town.dsn), connect(lane.town.dsn)]
        self.connect = connect
        self.holders[0].query(f"INSERT INTO notes VALUES ({self.key}, NULL, 0)")

    def come(self, count: int, way: str = "simple", text: str = READ) -> list[WireClient]:
        """Open clients that have their statement in the lane."""
        came = [self.connect(self.lane.town.dsn) for _ in range(count)]
        for client in came:
            if way == "prepared":
                client.ask(parse(text, text), SYNC)
            for _ in range(TIMES):
                client.send(*asked(way, text, self.key))
                client.read()
        return came

    def hold(self, way: str = "simple", text: str = READ) -> None:
        """Let the holders take all links; a statement of this way is prepared on them then."""
        for holder in self.holders:
            if way == "prepared":
                holder.ask(parse(text, text), SYNC)
            holder.query("BEGIN")
            # A key of nobody's: what it reads or changes keeps no other waiting.
            holder.ask(*asked(way, text, self.lane.town.keys(1, 2)[1]))

    def let_go(self) -> None:
        for holder in self.holders:
            holder.query("ROLLBACK")

    @property
    def waiting(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.lane.town.metrics_port}/metrics") as page:
            found = re.findall(
                r'^pgchorus_links\{.*state="waited_for".*\} ([0-9.]+)', page.read().decode(), re.MULTILINE
            )
        assert found
        return int(sum(map(float, found)))

    def queue(self, *clients: WireClient, messages: list[Any]) -> None:
        """Send the same messages by one after the other, each when the one before stands in the queue."""
        for client in clients:
            before = self.waiting
            client.send(*messages)
            eventually(lambda before=before: self.waiting == before + 1, "it does not wait")


@pytest.fixture
def crowd(lane: Lane, connect: Connect) -> Crowd:
    return Crowd(lane, connect)


@pytest.mark.parametrize("way", WAYS)
def test_who_finds_no_link_waits_in_the_lane(crowd: Crowd, way: str) -> None:
    came = crowd.come(5, way)
    messages = asked(way, READ, crowd.key)
    expected = came[0].ask(*messages)
    crowd.hold(way)
    before = crowd.lane.count()
    crowd.queue(*came, messages=messages)
    assert crowd.lane.count() == before
    crowd.let_go()
    assert [client.read() for client in came] == [expected] * 5
    assert crowd.lane.count() == before + 5


@pytest.mark.parametrize("way", WAYS)
def test_both_roads_stand_in_one_queue(crowd: Crowd, way: str) -> None:
    """The numbers that they get are in the order in which they came, with one link for all."""
    came = crowd.come(6, way, ADD)
    crowd.holders[1].query(f"UPDATE notes SET n = 0 WHERE k = {crowd.key}")
    crowd.hold(way, ADD)
    for number, client in enumerate(came):
        crowd.queue(client, messages=[*([FLUSH] if number % 2 else []), *asked(way, ADD, crowd.key)])
    crowd.holders[0].query("ROLLBACK")
    answers = [dict(entry for entry in client.read() if entry[0] == "row")["row"] for client in came]
    crowd.holders[1].query("ROLLBACK")
    assert answers == [[b"%d" % number] for number in range(1, 7)]


@pytest.mark.parametrize("way", WAYS)
def test_who_has_waited_too_long_is_told_so_as_on_the_long_road(crowd: Crowd, way: str) -> None:
    one, other = crowd.come(2, way)
    messages = asked(way, READ, crowd.key)
    expected = one.ask(*messages)
    crowd.hold(way)
    crowd.queue(one, messages=messages)
    crowd.queue(other, messages=[FLUSH, *messages])
    refused = one.read()
    assert [entry[1]["C"] for entry in refused if entry[0] == "error"] == ["53300"]
    assert other.read() == refused
    assert crowd.waiting == 0
    crowd.let_go()
    assert one.ask(*messages) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_cancel_ends_the_wait_and_what_comes_next_runs(crowd: Crowd, way: str) -> None:
    one, other = crowd.come(2, way)
    messages = asked(way, READ, crowd.key)
    expected = one.ask(*messages)
    crowd.hold(way)
    crowd.queue(one, other, messages=messages)
    one.send(*messages)  # behind the one that waits
    one.cancel()
    error = [entry[1]["C"] for entry in one.read() if entry[0] == "error"]
    assert error == ["57014"]
    eventually(lambda: crowd.waiting == 2, "the next one does not wait")
    crowd.let_go()
    assert one.read() == expected
    assert other.read() == expected


def test_a_client_that_vanishes_leaves_the_queue(crowd: Crowd) -> None:
    one, other = crowd.come(2)
    crowd.hold()
    crowd.queue(one, other, messages=asked("simple", READ, crowd.key))
    one.vanish()
    eventually(lambda: crowd.waiting == 1, "its place is kept")
    crowd.let_go()
    assert ("row", [b"0"]) in other.read()


def test_a_catalog_that_has_changed_meanwhile_is_noticed(crowd: Crowd) -> None:
    text = "SELECT * FROM notes WHERE k = $1"
    came = crowd.come(3, text=text)
    for holder in crowd.holders:
        holder.query("BEGIN")
        holder.query("SELECT 1 FROM words WHERE word = '" + word_on(crowd.lane, 1) + "'")
    crowd.queue(*came, messages=asked("simple", text, crowd.key))
    other = crowd.connect(crowd.lane.town.dsn)
    other.query("ALTER TABLE notes ADD COLUMN extra int DEFAULT 5")
    try:
        crowd.let_go()
        row = ("row", [b"%d" % crowd.key, None, b"0", b"5"])
        assert [client.read()[1] for client in came] == [row] * 3
    finally:
        other.query("ALTER TABLE notes DROP COLUMN extra")


def test_links_that_are_lost_are_opened_anew_for_those_who_wait(crowd: Crowd) -> None:
    came = crowd.come(4)
    crowd.hold()
    crowd.queue(*came, messages=asked("simple", READ, crowd.key))
    crowd.lane.town.on_shard(1, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in t%'")
    crowd.let_go()
    for client in came:
        assert ("row", [b"0"]) in client.read()


def test_a_session_whose_settings_no_link_has_gets_them(crowd: Crowd) -> None:
    """A link that has waited for nobody is brought to the settings of whoever has waited for it."""
    text = "SELECT current_setting('work_mem'), n FROM notes WHERE k = $1"
    one, other = crowd.come(2, text=text)
    one.query("SET work_mem = '7MB'")
    for _ in range(TIMES):
        one.ask(*asked("simple", text, crowd.key))
    crowd.hold()
    crowd.queue(one, other, messages=asked("simple", text, crowd.key))
    crowd.holders[0].query("ROLLBACK")  # both get the same link, one after the other
    assert ("row", [b"7MB", b"0"]) in one.read()
    assert ("row", [b"4MB", b"0"]) in other.read()
    crowd.holders[1].query("ROLLBACK")


def word_on(lane: Lane, shard: int) -> str:
    return next(word for word in map(str, range(100, 200)) if lane.town.shard_of(word) == shard)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_behind_a_statement_that_waits_is_answered_behind_it(crowd: Crowd, way: str) -> None:
    came = crowd.come(3, way)
    messages = asked(way, READ, crowd.key)
    expected = came[0].ask(*messages)
    for _ in range(2):
        crowd.hold(way)
        crowd.queue(*came, messages=messages)
        for client in came:
            client.send(*messages, *messages)
        crowd.let_go()
        assert [[client.read() for _ in range(3)] for client in came] == [[expected] * 3] * 3
        before = crowd.lane.count()
        assert [client.ask(*messages) for client in came] == [expected] * 3
        assert crowd.lane.count() == before + 3


@pytest.mark.parametrize("way", WAYS)
def test_one_that_has_waited_may_fail_or_give_no_row(crowd: Crowd, way: str) -> None:
    """Its answer is none that was expected: the client gets it whole, and so does who waits behind it."""
    text = "SELECT 8 / (n - 5) FROM notes WHERE k = $1"
    came = crowd.come(2, way, text)
    messages = asked(way, text, crowd.key)
    with psycopg.connect(crowd.lane.town.shards[1], autocommit=True) as shard:
        for n, code in ((5, "22012"), (None, ""), (3, "")):
            crowd.hold(way, text)
            shard.execute(b"DELETE FROM notes WHERE k = %d" % crowd.key)
            if n is not None:
                shard.execute(b"INSERT INTO notes VALUES (%d, NULL, %d)" % (crowd.key, n))
            crowd.queue(*came, messages=messages)
            crowd.let_go()
            for client in came:
                answer = client.read()
                assert [entry[1]["C"] for entry in answer if entry[0] == "error"] == [code] * bool(code)
                assert answer[-1] == ("ready", "I")
                assert ("row", [b"1"]) in client.query("SELECT 1")
                for _ in range(2):
                    assert client.ask(*messages) == answer


def test_a_statement_that_has_waited_can_be_cancelled_when_it_runs(crowd: Crowd) -> None:
    text = "SELECT n FROM notes WHERE k = $1 FOR UPDATE"
    one, other = crowd.come(2, text=text)
    messages = asked("simple", text, crowd.key)
    crowd.hold()
    crowd.queue(one, other, messages=messages)
    with psycopg.connect(crowd.lane.town.shards[1]) as shard:
        shard.execute(b"SELECT FROM notes WHERE k = %d FOR UPDATE" % crowd.key)
        crowd.let_go()
        waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE'"
        eventually(lambda: len(shard.execute(waits.encode()).fetchall()) == 2, "they do not run")
        one.cancel()
        assert [entry[1]["C"] for entry in one.read() if entry[0] == "error"] == ["57014"]
    assert ("row", [b"0"]) in other.read()
    assert ("row", [b"0"]) in one.ask(*messages)
