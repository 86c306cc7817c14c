"""COMMIT of a block that wrote on several shards, on the lane: what the client waits for, and what it does not.

The transports are the benchmark's: shards that answer at once, and no loop between a message and its answer.
"""

from __future__ import annotations

import asyncio

from bench.micro.distributed import Scene, Shard
from proxy.wire import backend
from proxy.wire.frontend import Query

COMMITTED = backend.command_complete(b"COMMIT") + backend.ready_for_query(b"I")


class Watched(Scene):
    """Notes what happens in which order once COMMIT has come."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.in_time: list[str] = []
        answer_client, take_back = self.client.write, self.session.database.release

        def to_client(data: bytes) -> None:
            self.order.append("answered" if data == COMMITTED else "said")
            answer_client(data)

        def released(link: object) -> None:
            self.order.append("link back")
            take_back(link)

        self.client.write = to_client  # type: ignore[method-assign]
        self.session.database.release = released
        for shard in self.shards:
            self._watch(shard)

    def _watch(self, shard: Shard) -> None:
        write = shard.write

        def to_shard(data: bytes) -> None:
            self.order.append("prepare" if b"PREPARE TRANSACTION" in data else "message")
            write(data)

        shard.write = to_shard  # type: ignore[method-assign]
        shard.protocol.send = to_shard


def _commit() -> Watched:
    scene = Watched()
    values = next(scene.values())
    messages = [
        b"BEGIN;",
        b"UPDATE pgbench_accounts SET abalance = abalance + %d WHERE aid = %d;" % (values["d"], values["a"]),
        b"UPDATE pgbench_tellers SET tbalance = tbalance + %d WHERE tid = %d;" % (values["d"], values["t"]),
    ]
    scene.run([Query(message).encode() for message in messages])
    scene.order.clear()
    scene.run([Query(b"END;").encode()])
    return scene


async def test_the_client_is_answered_before_the_links_go_back() -> None:
    scene = _commit()
    assert scene.order[-3:] == ["answered", "link back", "link back"]
    transaction = scene.session.transaction
    assert (transaction.links, transaction.writers, transaction.committing, scene.session.in_query) == (
        {},
        set(),
        False,
        False,
    )


async def test_a_commit_is_made_ahead_behind_the_statement_of_the_second_writer() -> None:
    scene = Watched()
    transaction, values = scene.session.transaction, next(scene.values())
    update = b"UPDATE pgbench_%s SET %sbalance = %sbalance + 1 WHERE %sid = %d;"
    messages = [b"BEGIN;", update % (b"accounts", b"a", b"a", b"a", values["a"])]
    scene.run([Query(message).encode() for message in messages])
    await asyncio.sleep(0)
    assert (transaction.identity, transaction.draft) == (None, None)
    scene.run([Query(update % (b"tellers", b"t", b"t", b"t", values["t"])).encode()])
    assert transaction.identity is None, "nobody waits for that"
    await asyncio.sleep(0)
    assert transaction.identity is not None
    draft = transaction.draft
    assert draft is not None
    assert draft.plan.gid.uuid.int & 0xFFFF == transaction.identity.random & 0xFFFF
    scene.order.clear()
    scene.run([Query(b"END;").encode()])
    assert draft.drive.told.result().gid == str(draft.plan.gid), "it was the one that was begun"
    assert scene.order[-3:] == ["answered", "link back", "link back"]
    assert (transaction.identity, transaction.draft) == (None, None)


async def test_a_transaction_that_ends_at_once_is_not_begun_to_be_watched() -> None:
    scene = _commit()
    await asyncio.sleep(0)
    assert (scene.session.transaction.identity, scene.session.transaction.draft) == (None, None)


async def test_participants_prepare_before_the_commit_point_is_asked() -> None:
    scene = _commit()
    assert scene.order[:2] == ["prepare", "message"]
