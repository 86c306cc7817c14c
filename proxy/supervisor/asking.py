"""What the supervisor is asked: by workers, for their clients and administrators, and by machines about the whole.

Decides who is asked on, and how long it may take. Left to others: how answers become one (``proxy.console.merged``,
``proxy.admin.totals``).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy import logs, systemd
from proxy.admin.totals import Totals, added_up
from proxy.cancel import CancelKeys
from proxy.config import ConfigError
from proxy.errors import ProxyError
from proxy.placing import placed_anew
from proxy.reload import failed, read_again, say_done
from proxy.siblings.channel import ChannelGoneError
from proxy.siblings.place import Headcount, Place
from proxy.supervisor.slot import Slot
from proxy.tasks import spawn
from proxy.worker import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.admin.endpoint import Collects
    from proxy.config import Config
    from proxy.siblings.family import Seen

log = structlog.get_logger("pgchorus.supervisor")

_STEP_S: Final = 10.0  # for all workers to take a step of a change of placements (proxy.session.holding.QUIET_S)
_ANSWER_S: Final = 5.0  # for what a worker has in memory, or the shards at once


class SilentError(ProxyError):
    """A worker's loop stands still."""


class Asking:
    """The workers, to be asked together. ``config`` is the one that new workers get."""

    def __init__(self, config: Config, drain: Callable[[], None]) -> None:
        self.config = config
        self.generation = 0
        self.draining = False
        self.up = False  # all have served
        self.placing = False  # no worker may be started
        self.on_placed: Callable[[], None] = lambda: None  # called when it may again
        self.slots = [Slot(number) for number in range(1, config.workers + 1)]
        self.headcount = Headcount(config.workers)
        self._drain = drain
        self._keys = CancelKeys(Place(1, config.workers))
        self._paused: set[tuple[str, int]] = set()
        self._timelines: dict[tuple[str, str, int], int] = {}
        self._reloading = asyncio.Lock()

    def serving(self) -> list[Slot]:
        """Return the workers that can be asked."""
        return [slot for slot in self.slots if slot.serving and slot.channel is not None and not slot.channel.gone]

    async def answer(self, slot: Slot, what: str, content: Any) -> Any:
        """Answer a worker."""
        return await getattr(self, f"on_{what}")(slot, content)

    # --- what workers ask -----------------------------------------------------------------------------------------

    async def on_cancel(self, _: Slot, key: dict[str, Any]) -> None:
        """Pass a cancel on to the worker whose number is in the key."""
        to = self.slots[key["worker"] - 1]
        if to in self.serving():
            with suppress(TimeoutError):  # it has it, and cancels when it answers again
                await _ask(to, "cancel", key, _ANSWER_S)

    async def on_show(self, _: Slot, view: str) -> list[Any]:
        """Return a view of all workers."""
        return await self._ask_all("show", view, 2 * _ANSWER_S)

    async def on_act(self, asking: Slot, action: dict[str, Any]) -> str:
        """Let workers do what an administrator wants: all of them, or the one that has the client."""
        name, words = action["name"], action["words"]
        if name == "KILL":
            owner = self._keys.owner(int(words[0])) if words and words[0].isdigit() else 0
            chosen = [slot for slot in self.serving() if slot.number == owner] or [asking]
            try:
                return str(await _ask(chosen[0], "act", action))
            except TimeoutError:
                raise _late(chosen[0], None) from None
        if name in ("PAUSE", "RESUME"):
            change = self._paused.update if name == "PAUSE" else self._paused.difference_update
            change(self._meant(words))
        tags = await self._ask_all("act", action)
        return str(tags[0]) if tags else name

    def _meant(self, words: Sequence[str]) -> set[tuple[str, int]]:
        """Return the shards that PAUSE and RESUME mean; the workers refuse what is not there."""
        return {
            (name, shard)
            for name, database in self.config.cluster.databases.items()
            for shard, shard_name in enumerate(database.shards)
            if name in words[:1] or not words
            if shard_name in words[1:] or len(words) < 2  # noqa: PLR2004 - database, shard
        }

    async def on_workers(self, _: Slot, __: object) -> list[dict[str, Any]]:
        """Return what is known of each worker."""
        return [
            {
                "worker": slot.number,
                "pid": slot.pid or None,
                "state": slot.state,
                "clients": self.headcount.of(slot.number),
                "since": slot.since,
                "restarts": slot.restarts,
            }
            for slot in self.slots
        ]

    @property
    def timelines(self) -> list[Seen]:
        """What workers have seen of shards' servers, for those that are made later."""
        return [(*of, timeline) for of, timeline in self._timelines.items()]

    async def on_timeline(self, slot: Slot, seen: Seen) -> None:
        """A worker has seen a timeline that is new to it: if it is to all, the others hear of it."""
        database, shard, system, timeline = seen
        if self._timelines.get((database, shard, system), 0) < timeline:
            self._timelines[database, shard, system] = timeline
            for one in self.serving():
                if one is not slot:
                    spawn(_pass_on(one, "timeline", seen), name=f"telling worker {one.number} of a timeline")

    async def on_drain(self, _: Slot, __: object) -> None:
        """DRAIN."""
        asyncio.get_running_loop().call_soon(self._drain)

    async def on_reload(self, _: Slot, again: bool) -> None:  # noqa: FBT001 - what a worker has sent
        """RELOAD."""
        if error := await asyncio.shield(spawn(self.reload(again=again), name="reload")):
            raise error

    async def welcome(self, slot: Slot) -> dict[str, Any]:
        """A worker is ready: return what has been done to the others since it was made."""
        async with self._reloading:
            slot.serving = True
            config = packed(self.config) if slot.generation != self.generation else None
            return {"config": config, "paused": sorted(self._paused), "timelines": self.timelines}

    # --- reload -----------------------------------------------------------------------------------------------------

    async def reload(self, *, again: bool = False) -> ProxyError | None:
        """Read the configuration again; all workers go by it, or none. Return why all is as it was, if that is so.

        ``again``: the log has been told of that already.
        """
        async with self._reloading:
            systemd.reloading()
            file = self.config.file
            try:
                renewed, waiting = read_again(self.config)
                await self._ask_all("prepare", packed(renewed))
                if placed_anew(self.config, renewed):
                    await self._place(renewed)
            except (ConfigError, OSError, ProxyError) as error:
                return failed(file, error, again=again)
            else:
                if renewed.log != self.config.log:
                    logs.set_up(renewed.log.level, renewed.log.format)
                self.config = renewed
                self.generation += 1
                await self._all_will("apply")
                say_done(file, waiting)
                return None
            finally:
                systemd.ready()

    async def _place(self, renewed: Config) -> None:
        """Change placements on the shards and in all workers; raises ProxyError when they stay as they were."""
        serving = self.serving()
        if len(serving) < len(self.slots):
            raise ProxyError("55000", "a worker is not serving yet", hint="Reload again when SHOW WORKERS shows all.")
        before = self.config
        self.placing = True  # who is started now would read one configuration and find the other on the shards
        try:
            await self._step("hold")
            self.config = renewed
            try:
                epoch = await _ask(serving[0], "placing", {"name": "change", "with": []})
            except (ChannelGoneError, TimeoutError):
                self.config = before
                # It may have got to its end before it died, or may yet. Nobody plans by what is not on the shards.
                raise ProxyError("55000", f"worker {serving[0].number} has died", hint="Reload again.") from None
            except ProxyError:
                self.config = before
                raise
            try:
                await self._step("adopt", epoch)
                await _ask(serving[0], "placing", {"name": "known", "with": []})
            except (ProxyError, ChannelGoneError, TimeoutError) as error:
                # It is on the shards. Who has not got so far plans nothing before it has.
                log.warning("not every worker has said that it goes by the new placements", error=str(error))
        finally:
            try:
                await self._all_will("placing", {"name": "go_on", "with": []}, _STEP_S)
            finally:
                self.placing = False
                self.on_placed()

    async def _step(self, name: str, *given: object) -> None:
        # A worker that is stopped must not keep the clients of the others waiting.
        await self._ask_all("placing", {"name": name, "with": given}, _STEP_S)

    async def _all_will(self, what: str, content: object = None, within: float | None = None) -> None:
        """Have all do what they have said they can, in the order in which they are asked.

        Who is silent has it in its channel, and does it as soon as it reads: neither can it be waited for, nor is what
        the others have done taken back.
        """
        try:
            await self._ask_all(what, content, within)
        except SilentError as error:
            log.error("a worker follows as soon as it answers", to_do=what, error=error.message)  # noqa: TRY400 - says all

    # --- what machines ask (proxy.admin.endpoint.Pages) -------------------------------------------------------------

    async def metrics(self) -> Collects:
        """Return the sums."""
        serving = self.serving()
        for slot, found in zip(serving, await _gather(serving, "metrics", None, _ANSWER_S), strict=True):
            if not isinstance(found, BaseException):  # who does not answer is shown with its figures of the last time
                slot.metrics = found
        parts = [part for slot in self.slots for part in (slot.metrics, slot.departed)]
        heard = sum(not slot.silent for slot in serving)
        return Totals(added_up(parts), heard, len(self.slots), sum(slot.restarts for slot in self.slots))

    async def unwell(self) -> str:
        """Return which worker does not answer."""
        serving = self.serving()
        for slot, found in zip(serving, await _gather(serving, "unready", None, _ANSWER_S), strict=True):
            if isinstance(found, TimeoutError):
                return f"worker {slot.number} does not answer"
        return ""

    async def unready(self) -> str:
        """Return why no client should be sent here now."""
        if self.draining or not self.up:
            return "draining" if self.draining else "starting"
        serving = self.serving()
        if not serving:
            return "no worker serves"
        for slot, found in zip(serving, await _gather(serving, "unready", None, _ANSWER_S), strict=True):
            if isinstance(found, ChannelGoneError):
                continue  # another one has its sockets, until it is back
            if found:
                return f"worker {slot.number}: {'does not answer' if isinstance(found, Exception) else found}"
        return ""

    async def _ask_all(self, what: str, content: object = None, within: float | None = None) -> list[Any]:
        """Return the answers of all that serve; who dies meanwhile has none. Raises the first ProxyError.

        Nobody waits for one that is silent, also where ``within`` sets no limit: it is named.
        """
        serving = self.serving()
        answers, silent = [], None
        for slot, found in zip(serving, await _gather(serving, what, content, within), strict=True):
            if isinstance(found, TimeoutError):
                silent = silent or _late(slot, within)
            elif isinstance(found, BaseException):
                if not isinstance(found, ChannelGoneError):
                    raise found
            else:
                answers.append(found)
        if silent is not None:
            raise silent
        return answers


async def _ask(slot: Slot, what: str, content: object, within: float | None = None) -> Any:
    """Return one worker's answer; TimeoutError when it is late, or silent. It is asked all the same, and may do it."""
    if slot.channel is None:
        raise ChannelGoneError
    async with asyncio.timeout(0 if slot.silent else within) as wait:
        slot.waits.add(wait)
        try:
            return await slot.channel.ask(what, content)
        finally:
            slot.waits.discard(wait)


async def _pass_on(slot: Slot, what: str, content: object) -> None:
    """Tell one worker something; one that has ended needs it no more, one that is silent has it in its channel."""
    with suppress(ChannelGoneError, ProxyError, TimeoutError):
        await _ask(slot, what, content, _ANSWER_S)


def _late(slot: Slot, within: float | None) -> ProxyError:
    if within is None or slot.silent:
        return SilentError("55000", f"worker {slot.number} does not answer", hint="SHOW WORKERS shows which ones do.")
    return SilentError("55000", f"worker {slot.number} has not answered within {within:g} s")


async def _gather(slots: Sequence[Slot], what: str, content: object, within: float | None) -> list[Any]:
    """Return an answer or an exception of each."""
    return await asyncio.gather(*(_ask(slot, what, content, within) for slot in slots), return_exceptions=True)
