"""One of several workers: a server of its own that does what the supervisor asks.

Each worker is a proxy as any other before the same shards: it has links, plans, catalog and recovery of its own, and is
known to the others by what stands in Postgres. Nothing is shared on the way of a statement.

Signals: SIGTERM drains this worker alone (its supervisor starts another); SIGINT and SIGHUP are the supervisor's, to
whom a terminal sends them as well. When the supervisor is gone, the worker drains.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import signal
from typing import TYPE_CHECKING, Any

import structlog

from proxy.admin.totals import read_metrics
from proxy.console.actions import ACTIONS
from proxy.console.views import VIEWS
from proxy.errors import ProxyError
from proxy.reload import Prepared, prepare
from proxy.server import Server
from proxy.siblings.channel import Channel, ChannelGoneError
from proxy.siblings.family import Family
from proxy.tasks import spawn
from proxy.tls import TlsError
from proxy.twophase.points import pass_by

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from proxy.config import Config
    from proxy.placing import Placing
    from proxy.siblings.family import Seen
    from proxy.siblings.place import Headcount, Place
    from proxy.twophase.points import Checkpoint

log = structlog.get_logger("pgchorus.worker")


def packed(config: Config) -> str:
    """Return a configuration as it goes over the channel."""
    return base64.b64encode(pickle.dumps(config)).decode()


async def work(  # noqa: PLR0913 - what the supervisor gives
    config: Config,
    place: Place,
    *,
    headcount: Headcount,
    channel: socket.socket,
    sockets: Sequence[Sequence[socket.socket]],
    timelines: Sequence[Seen] = (),
    checkpoint: Checkpoint = pass_by,
) -> None:
    """Serve as worker ``place.number`` until the supervisor says stop."""
    worker = Worker()
    worker.channel = to_supervisor = await Channel.over(channel, worker.answer)
    worker.server = server = Server(config, checkpoint, Family(place, headcount, to_supervisor, timelines))
    listening = spawn(to_supervisor.run(), name="channel to the supervisor")
    listening.add_done_callback(lambda _: worker.supervisor_gone())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)

    async def ready() -> None:
        """Tell the supervisor, and do what it has done to the others since this worker was made."""
        missed = await to_supervisor.ask("ready")
        if missed["config"] is not None:
            await worker.prepare(missed["config"])
            worker.apply()
        for name, shard in missed["paused"]:
            server.databases()[name].pools.pause(shard)
        for seen in missed["timelines"]:
            await worker.on_timeline(seen)

    try:
        await server.run_as_worker(sockets, ready)
    finally:
        listening.cancel()


class Worker:
    """What the supervisor may ask."""

    server: Server
    channel: Channel

    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._placing: Placing | None = None

    async def answer(self, what: str, content: Any) -> Any:
        """Answer one question (proxy.siblings.channel)."""
        return await getattr(self, f"on_{what}")(content)

    def supervisor_gone(self) -> None:
        """Nobody watches: what is under way here may end, then another supervisor has other workers."""
        if self._placing is not None:
            self._placing.release()
        if not self.server.draining:
            log.error("the supervisor is gone: draining")
            self.server.end(at_once=False)

    def leave(self) -> None:
        """Somebody wants this worker alone to end: another one accepts what comes to its sockets, until the next."""
        if not self.server.draining:
            spawn(self._leave(), name="leaving")

    async def _leave(self) -> None:
        try:
            await self.channel.ask("leaving")
        except ChannelGoneError:
            log.info("leaving together with the supervisor")
        self.server.end(at_once=False, handed_on=True)

    async def on_stop(self, how: dict[str, bool]) -> None:
        """End."""
        self.server.end(**how)

    async def on_cancel(self, key: dict[str, Any]) -> None:
        """Cancel what a key means; the secret is compared here, where the session is."""
        await self.server.keys.cancel(key["pid"], bytes.fromhex(key["secret"]))

    async def on_show(self, view: str) -> dict[str, Any]:
        """Return the rows of a view of the console."""
        table = await VIEWS[view](self.server)
        return {"columns": table.columns, "numbers": sorted(table.numbers), "rows": table.rows}

    async def on_act(self, action: dict[str, Any]) -> str:
        """Do what an administrator wants, here."""
        return await ACTIONS[action["name"]][1](self.server, action["words"])

    async def on_metrics(self, _: object) -> list[Any]:
        """Return all metrics."""
        return read_metrics(self.server.metrics.registry)

    async def on_timeline(self, seen: Seen) -> None:
        """Hear of what another worker has seen of a shard's servers."""
        name, shard, system, timeline = seen
        database = self.server.databases().get(name)
        if database is not None and database.timelines is not None:
            database.timelines.hear(shard, system, timeline)

    async def on_beat(self, _: object) -> None:
        """The loop turns: this is the answer."""

    async def on_unready(self, _: object) -> str:
        """Return why no client should be sent here, '' when one may be."""
        return self.server.not_ready()

    async def on_adopt(self, worker: int) -> None:
        """Accept what comes to the sockets of a worker that is away."""
        await self.server.listen(worker)

    async def on_release(self, worker: int) -> None:
        """It is back."""
        self.server.unlisten(worker)

    # --- reload: first all are asked whether they could, then all do ----------------------------------------------

    async def prepare(self, config: str) -> None:
        """Make ready what a new configuration needs; raises TlsError or OSError."""
        self._prepared = await prepare(self.server, pickle.loads(base64.b64decode(config)))  # noqa: S301 - our own supervisor's

    def apply(self) -> None:
        """Go by what was made ready."""
        if self._prepared is not None:
            self._prepared.apply(self.server)
            self._prepared = None
            self._placing = None

    async def on_prepare(self, config: str) -> None:
        """Say whether it would do, by an error when not."""
        try:
            await self.prepare(config)
        except (TlsError, OSError) as error:
            raise ProxyError("F0000", str(error)) from error
        self._placing = None if self._prepared is None else self._prepared.placing

    async def on_placing(self, step: dict[str, Any]) -> Any:
        """Take a step of a change of placements (proxy.placing)."""
        placing = self._placing
        return None if placing is None else await getattr(placing, step["name"])(*step["with"])

    async def on_apply(self, _: object) -> None:
        """All could."""
        self.apply()
