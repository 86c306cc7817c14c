"""Which links a client's transaction takes, what goes out in front of its statements, and what it notes on them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ProxyError
from proxy.isolation import Modes
from proxy.settings import UNKNOWN, Applied, SessionSettings
from proxy.shards.errors import ShardError
from proxy.transaction import Block, ClientTransaction
from proxy.twophase.events import Outcome, Result
from proxy.twophase.fence import FenceLostError
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

CUSTOM = Applied((("app.tenant", "SET app.tenant = 1"),))


class Link:
    """A link that keeps what is put in front of its next exchange; `go` is that exchange."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.name = f"s{shard}"
        self.settings: object | None = None
        self.prefixes: list[tuple[str, bool]] = []
        self.prefix_failed = False
        self.resettable = True
        self.dirty = False
        self.closed = self.busy = self.cancelled = False
        self.unprepared = ""
        self.status = ord("I")
        self.on_notification: object = None
        self.ran: list[str] = []
        self.fails_at: tuple[str, ShardError] | None = None
        self.begun: list[str] = []  # what went out in front of exchanges

    @property
    def has_prefix(self) -> bool:
        return bool(self.prefixes)

    def prefix(self, frames: bytes, cycles: int = 1, *, gate: bool = False) -> None:
        assert cycles == 1
        self.prefixes.append((frames[5:-1].decode(), gate))

    def go(self) -> list[tuple[str, bool]]:
        sent, self.prefixes = self.prefixes, []
        self.begun += [sql for sql, _ in sent]
        return sent

    async def run(self, sql: str) -> None:
        self.go()
        self.ran.append(sql)
        if self.fails_at is not None and self.fails_at[0] == sql:
            raise self.fails_at[1]

    def abort(self) -> None:
        self.closed = True


class Held:
    """A fence that may have been lost."""

    def __init__(self, *, lost: bool) -> None:
        self.lost = lost

    async def release_confirmed(self) -> None:
        if self.lost:
            raise FenceLostError("40001", "the fence was lost")


class Database:
    """Gives links out, the ones that came back first; `fails` are shards that have none."""

    def __init__(self) -> None:
        self.proven_settings: set[tuple[int, str, Applied]] = set()
        self.idle: dict[int, Link] = {}
        self.made: list[Link] = []
        self.fails: set[int] = set()
        self.watched: list[ClientTransaction] = []
        self.fenced: list[int] = []
        self.lose = 0  # how many fences are lost before they are confirmed

    def take(self, shard: int, role: str, preferred: Link | None = None) -> Link | None:  # noqa: ARG002
        assert (role, preferred) == ("me", None)
        return None

    async def acquire(self, shard: int, role: str, *, further: bool = False) -> Link:  # noqa: ARG002
        assert role == "me"
        if shard in self.fails:
            raise ProxyError("53300", "none is free")
        link = self.idle.pop(shard, None)
        if link is None:
            link = Link(shard)
            self.made.append(link)
        return link

    def is_paused(self, shards: Collection[int]) -> bool:  # noqa: ARG002
        return False

    def release(self, link: Link) -> None:
        link.go()  # as washing does
        if not link.closed and link.resettable:
            self.idle[link.shard] = link

    async def commit(
        self, links: Mapping[int, Link], writers: frozenset[int], must_commit: frozenset[int], identity: Any, gid: Any
    ) -> Any:
        raise NotImplementedError

    @asynccontextmanager
    async def all_shards_fenced(self) -> AsyncIterator[Held]:
        self.fenced.append(len(self.made))
        yield Held(lost=len(self.fenced) <= self.lose)

    def watch(self, waiter: ClientTransaction) -> object:
        self.watched.append(waiter)
        return object()

    def draft(self, links: Mapping[int, Link], writers: set[int], identity: Any) -> Any:
        raise NotImplementedError

    def forget(self, waiter: ClientTransaction) -> None:
        self.watched.remove(waiter)


@pytest.fixture
def database() -> Database:
    return Database()


def transaction(database: Any, **made: str) -> ClientTransaction:
    settings = SessionSettings()
    for name, value in made.items():
        settings.set(name, f"SET {name} = {value}")
    return ClientTransaction(database, "me", settings, 3)


async def link_of(client: ClientTransaction, shard: int) -> Any:
    return (await client.join([shard], writes=False))[shard]


async def test_begin_is_lazy_and_savepoints_are_replayed(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT, Modes(read_only=True))
    first = await link_of(client, 0)
    assert first.go() == [("BEGIN READ ONLY", False)]
    await client.savepoint("a", "SAVEPOINT a")
    client.note_setting("work_mem", "SET LOCAL work_mem = 1")
    second = await link_of(client, 1)
    assert second.go() == [("BEGIN READ ONLY", False), ("SAVEPOINT a", False), ("SET LOCAL work_mem = 1", False)]
    assert first.ran == ["SAVEPOINT a"]
    assert (await link_of(client, 0)).go() == []


async def test_settings_must_have_worked_once_before_a_statement_goes_with_them(database: Database) -> None:
    client, other = transaction(database, work_mem="1"), transaction(database)
    for gated in (True, False):
        link = await link_of(client, 1)
        ((sql, gate),) = link.go()
        assert sql.endswith("SET work_mem = 1")
        assert gate is gated
        client.finish_statement()
        assert link.settings == client.settings.applied
        assert len((await link_of(other, 1)).go()) == 1
        other.finish_statement()
    link = await link_of(client, 2)
    assert link.go()[0][1] is True, "another shard has shown nothing yet"
    client.finish_statement()
    assert (await link_of(client, 2)).go() == [], "it has them already"


async def test_roles_are_always_waited_for(database: Database) -> None:
    client, other = transaction(database, role="somebody"), transaction(database)
    for _ in range(3):
        assert (await link_of(client, 0)).go()[0][1] is True
        client.finish_statement()
        (await link_of(other, 0)).go()
        other.finish_statement()


async def test_a_link_has_what_it_is_noted_to_have(database: Database) -> None:
    """Settings that never went out, or failed, must not be taken for applied by the next client with the same."""
    client, next_client = transaction(database, work_mem="1"), transaction(database, work_mem="1")
    database.fails = {1}
    with pytest.raises(ProxyError, match="none is free"):
        await client.join([0, 1], writes=False)
    client.finish_statement()
    link = await link_of(next_client, 0)
    assert len(link.go()) == 1, "it was never told"
    link.prefix_failed = True
    next_client.finish_statement()
    assert link.settings is UNKNOWN
    assert not link.prefix_failed
    assert database.proven_settings == set()
    assert len((await link_of(client, 0)).go()) == 1


async def test_custom_settings_end_with_their_link(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT)
    link = await link_of(client, 0)
    link.go()
    client.note_setting("app.tenant", "SET LOCAL app.tenant = 1")
    await client.rollback()
    assert not link.resettable
    owner, other = transaction(database), transaction(database)
    owner.settings.set("app.tenant", "SET app.tenant = 1")
    assert owner.settings.applied == CUSTOM
    link = await link_of(owner, 1)
    link.go()
    owner.finish_statement()
    assert await link_of(owner, 1) is link
    owner.finish_statement()
    assert await link_of(other, 1) is not link
    assert link.closed


async def test_a_rollback_does_not_wait_for_a_link_in_mid_exchange(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT)
    first, second = await link_of(client, 0), await link_of(client, 1)
    first.go()
    second.go()
    first.status = second.status = ord("T")
    first.busy = True
    await client.rollback()
    assert first.closed
    assert second.ran == ["ROLLBACK"]
    assert not client.in_block


async def test_a_pinned_link_is_the_commit_point(database: Database) -> None:
    client = transaction(database)
    link = await link_of(client, 0)
    client.pin("temporary table", [0])
    client.finish_statement()
    assert database.idle == {}
    client.begin(Block.EXPLICIT)
    assert await link_of(client, 0) is link
    assert client.must_commit == {0: "temporary table"}
    await client.rollback()
    client.unpin()
    assert link.closed


async def test_a_pinned_link_that_has_joined_is_closed_when_the_client_is_gone(database: Database) -> None:
    client = transaction(database)
    kept, other = await link_of(client, 0), await link_of(client, 1)
    client.pin("LISTEN", [0])
    client.abandon()
    assert (kept.closed, other.closed) == (True, False)
    assert not client.pinned


async def test_read_only_after_writes_is_told_to_shards_so_that_it_ends_before_the_decision(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT)
    await client.join([0, 1], writes=True)
    await client.set_modes(Modes(read_only=True), "SET TRANSACTION READ ONLY")
    assert database.made[0].ran[-1] == "SAVEPOINT pgchorus_read_only; SET TRANSACTION READ ONLY"
    await client.join([2], writes=True)
    assert client.read_only
    assert client.writers == {0, 1}, "what a shard lets a read-only transaction do needs no decision"
    with pytest.raises(NotImplementedError):  # the next thing is the decision
        await client.commit()
    assert database.made[0].ran[-1] == "RELEASE SAVEPOINT pgchorus_read_only"


@pytest.mark.parametrize("said", [None, ErrorFields.make("ERROR", "25P02", "current transaction is aborted")])
async def test_a_timeout_right_before_the_commit_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: ErrorFields | None
) -> None:
    """A shard whose transaction has failed answers COMMIT with ROLLBACK, or PREPARE with 25P02."""

    async def commit(*_: object) -> Outcome:
        return Outcome(Result.ABORTED, error=said)

    monkeypatch.setattr(database, "commit", commit)
    client = transaction(database)
    client.begin(Block.EXPLICIT)
    await client.join([0, 1], writes=True)
    await client.set_modes(Modes(read_only=True), "SET TRANSACTION READ ONLY")
    timeout = ShardError(ErrorFields.make("ERROR", "57014", "canceling statement due to statement timeout"), 1)
    database.made[1].fails_at = ("RELEASE SAVEPOINT pgchorus_read_only", timeout)
    outcome = await client.commit()
    assert outcome is not None
    assert (outcome.committed, outcome.error, outcome.shard) == (False, timeout.fields, 1)


async def test_a_cancel_is_heard_between_shards(database: Database) -> None:
    client = transaction(database)
    client.cancel_requested = True
    with pytest.raises(ProxyError) as caught:
        await client.join([0], writes=False)
    assert caught.value.sqlstate == "57014"


async def test_chained_modes(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT, Modes(isolation="serializable"))
    assert client.modes_for_chain(rolled_back=False) == Modes(isolation="serializable")
    client.failed = True
    assert client.modes_for_chain(rolled_back=False) == Modes()
    await client.rollback()
    assert client.modes == Modes()


async def test_a_repeatable_read_block_fixes_its_snapshots_everywhere_with_its_first_query(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT, Modes(isolation="repeatable read"))
    await client.join([1], writes=False, reads=False)
    await client.savepoint("a", "SAVEPOINT a")
    assert database.fenced == []
    await client.join([2], writes=True)
    assert database.fenced == [3], "all shards have joined before the fence is taken"
    assert all(link.ran[-2:] == ["", "SELECT 1"] for link in database.made)
    await client.join([0], writes=False)
    assert database.fenced == [3]
    assert client.touched == {0, 2}


async def test_a_fence_that_was_lost_begins_the_block_again(database: Database) -> None:
    client = transaction(database)
    database.lose = 2
    client.begin(Block.EXPLICIT, Modes(isolation="repeatable read"))
    client.note_setting("work_mem", "SET LOCAL work_mem = 1")
    await client.join([0], writes=False)
    assert len(database.fenced) == 3
    for link in database.made:
        assert link.ran == ["", "SELECT 1", "ROLLBACK"] * 2 + ["", "SELECT 1"]
        assert link.begun == ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SET LOCAL work_mem = 1"] * 3


async def test_locked_tables_cannot_be_locked_again(database: Database) -> None:
    client = transaction(database)
    database.lose = 1
    client.begin(Block.EXPLICIT, Modes(isolation="repeatable read"))
    client.command = "LOCK TABLE"
    await client.join([0], writes=False)
    client.command = "SELECT"
    with pytest.raises(FenceLostError):
        await client.join([0], writes=False)
    assert not any("ROLLBACK" in link.ran for link in database.made)


async def test_an_error_lets_go_everywhere_of_what_came_after_the_last_savepoint(database: Database) -> None:
    client = transaction(database)
    client.begin(Block.EXPLICIT)
    await client.join([0, 1], writes=True)
    for link in database.made:
        link.go()
        link.status = ord("T")
    await client.savepoint('x"y', 'SAVEPOINT "x""y"')
    client.fail()
    await client.release_locks()
    await client.release_locks()
    assert [link.ran for link in database.made] == [['SAVEPOINT "x""y"', 'ROLLBACK TO SAVEPOINT "x""y"']] * 2
    await client.rollback_to('x"y', 'ROLLBACK TO "x""y"')
    await client.release_savepoint('x"y', 'RELEASE "x""y"')
    client.fail()
    await client.release_locks()
    assert [link.ran[-1] for link in database.made] == ["ROLLBACK"] * 2
