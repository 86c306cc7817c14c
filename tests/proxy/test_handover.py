"""Sockets that one proxy gives to the next: who gets them, and that no client notices."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from calling import Caller
from proxy.handover import Taken
from proxy_process import ProxyProcess, write_config
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDatabases


@pytest.mark.parametrize(
    ("given", "workers", "expected"),
    [
        ([[0]], 1, [[0]]),
        ([[0, 1], [2, 3]], 2, [[0, 1], [2, 3]]),
        ([[0], [1], [2]], 2, [[0, 2], [1]]),
        ([[0], [1]], 3, [[0], [1], [0]]),
        ([[0], [1], [2]], 1, [[0, 1, 2]]),
    ],
)
def test_every_socket_has_a_worker_and_every_worker_a_socket(
    given: list[list[int]], workers: int, expected: list[list[int]]
) -> None:
    sockets = [socket.socket() for _ in range(4)]
    taken = Taken([[sockets[number] for number in group] for group in given])
    assert [[sockets.index(one) for one in group] for group in taken.for_workers(workers)] == expected
    for one in sockets:
        one.close()


class Succession:
    """Proxies that take over from each other, with as many workers as each is told."""

    def __init__(self, directory: Path, shards: list[str], stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._first = write_config(
            directory / "first.yaml",
            {shards[0].rpartition("/")[2]: shards},
            handover="handover.sock",
            console={"admins": "postgres"},
        )

    def next(self, workers: int, *, good: bool = True) -> ProxyProcess:
        content: dict[str, Any] = {**json.loads(self._first.read_text()), "workers": workers}
        if not good:
            for database in content["databases"].values():
                database["shards"]["s0"] = "postgres://postgres@127.0.0.1:1/nowhere"
        file = self._directory / f"{workers}.{good}.yaml"
        file.write_text(json.dumps(content))
        made = ProxyProcess(file, ("-m", "proxy", "serve", "--takeover", "-c", str(file)))
        self._stack.callback(made.close)
        made.start()
        return made


@pytest.fixture
def succession(make_databases: MakeDatabases, tmp_path: Path) -> Iterator[Succession]:
    with ExitStack() as stack:
        yield Succession(tmp_path, make_databases(1, "d"), stack)


def served_by(dsn: str) -> set[int]:
    """Return the process ids that the console of whoever answers knows."""
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
        rows = console.execute("show workers").fetchall()
        return {row[1] for row in rows}


def test_no_client_is_refused_while_one_proxy_follows_another(succession: Succession) -> None:
    """One process, then two workers, then one again: nobody who connects meanwhile fails, open blocks commit."""
    first = succession.next(1)
    dsn = first.dsn(first.config.read_text().split('"databases": {')[1].split('"')[1])
    console = first.dsn("pgchorus")
    with psycopg.connect(dsn) as early, Caller(dsn) as caller:
        early.execute("create table t (k int)")
        with pytest.raises(AssertionError, match="before it was ready"):
            succession.next(1, good=False)
        caller.more()
        assert served_by(console) == {first.pid}, "one that fails changes nothing"
        second = succession.next(2)
        assert second.port == first.port
        caller.more()
        eventually(lambda: len(served_by(console)) == 2, "the old one lets clients in still")
        early.execute("insert into t values (1)")
        early.commit()
        assert first.wait() == 0
        with psycopg.connect(dsn) as later:
            assert later.execute("select k from t").fetchall() == [(1,)]
            third = succession.next(1)
            caller.more()
            later.execute("insert into t values (2)")
            later.commit()
        assert second.wait() == 0
        caller.more()
        assert served_by(console) == {third.pid}
    assert caller.errors == []
    assert third.stop() == 0


def test_without_anybody_to_follow_it_starts_and_without_the_key_it_says_so(
    succession: Succession, tmp_path: Path
) -> None:
    alone = succession.next(1)
    assert alone.stop() == 0
    file = write_config(tmp_path / "plain.yaml", {"d": ["postgres://postgres@127.0.0.1:1/d"]})
    plain = ProxyProcess(file, ("-m", "proxy", "serve", "--takeover", "-c", str(file)))
    with pytest.raises(AssertionError, match=r"(?s)status 2 .*--takeover needs the key handover"):
        plain.start()
