"""What the console does besides SHOW: each action changes the running proxy, so only administrators may.

Returns the command tag, or raises ProxyError.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.console.world import World
    from proxy.database import LogicalDatabase

    Action = Callable[[World, Sequence[str]], Awaitable[str]]

_LOOK_S: Final = 0.05  # between two looks whether all transactions have ended


async def kill(world: World, words: Sequence[str]) -> str:
    """KILL id: end a client's session, whatever it does; its transaction is rolled back unless its COMMIT has begun.

    Then it is told how that went, before it is ended: as with one Postgres nothing interrupts a COMMIT.
    """
    if len(words) != 1 or not words[0].isdigit():
        raise ProxyError("42601", "KILL takes the id of a client", hint="SHOW CLIENTS has them in the column id.")
    waited = False
    for session in world.sessions():
        if session.pid == int(words[0]):
            while session.transaction.committing or (waited and session.in_query):
                waited = True
                await asyncio.sleep(_LOOK_S)
            session.kill()
            return "KILL"
    raise ProxyError("42704", f"there is no client with the id {words[0]}", hint="SHOW CLIENTS lists them.")


async def recover(world: World, words: Sequence[str]) -> str:
    """RECOVER: finish what is decided on all shards now, instead of at the next turn."""
    _takes_nothing("RECOVER", words)
    reports = await asyncio.gather(*(database.recovery.run_once() for database in world.databases().values()))
    problems = [f"{gid}: {problem}" for report in reports for gid, problem in report.problems.items()]
    problems += [f"shard {shard}: {reason}" for report in reports for shard, reason in report.unreachable.items()]
    if problems:
        raise ProxyError("55000", "not everything could be looked at", detail="\n".join(problems))
    return "RECOVER"


async def reload(world: World, words: Sequence[str]) -> str:
    """RELOAD: what SIGHUP does, and an error when the configuration stays as it was."""
    _takes_nothing("RELOAD", words)
    await world.reload()
    return "RELOAD"


async def drain(world: World, words: Sequence[str]) -> str:
    """DRAIN: what SIGTERM does; the session of the console ends with the others."""
    _takes_nothing("DRAIN", words)
    asyncio.get_running_loop().call_soon(world.drain)
    return "DRAIN"


async def reset(world: World, words: Sequence[str]) -> str:
    """RESET STATEMENTS: begin SHOW STATEMENTS anew; STATS and the metrics go on."""
    if [word.upper() for word in words] != ["STATEMENTS"]:
        raise ProxyError("42601", "RESET takes the word STATEMENTS")
    for database in world.databases().values():
        database.counts.book.reset()
    return "RESET"


async def pause(world: World, words: Sequence[str]) -> str:
    """PAUSE [database [shard]]: let no transaction begin there, and return when those that run have ended."""
    chosen = _chosen(world, "PAUSE", words)
    for database, shard in chosen:
        database.pools.pause(shard)
    while any(database.pools.in_use(shard) for database, shard in chosen):
        # Looking now and then costs the way of every statement nothing; an event would have to be set there.
        if not all(database.pools.is_paused(shard) for database, shard in chosen):
            raise ProxyError("57014", "RESUME has ended the pause")
        await asyncio.sleep(_LOOK_S)
    return "PAUSE"


async def resume(world: World, words: Sequence[str]) -> str:
    """RESUME [database [shard]]: end a PAUSE."""
    for database, shard in _chosen(world, "RESUME", words):
        database.pools.resume(shard)
    return "RESUME"


ACTIONS: dict[str, tuple[str, Action]] = {
    "KILL": ("KILL id", kill),
    "PAUSE": ("PAUSE [database [shard]]", pause),
    "RESUME": ("RESUME [database [shard]]", resume),
    "RECOVER": ("RECOVER", recover),
    "RESET": ("RESET STATEMENTS", reset),
    "RELOAD": ("RELOAD", reload),
    "DRAIN": ("DRAIN", drain),
}
#: What any worker has the supervisor do to all; the other actions are each worker's own.
OF_ALL: Final = frozenset({"RELOAD", "DRAIN"})


def _chosen(world: World, command: str, words: Sequence[str]) -> list[tuple[LogicalDatabase, int]]:
    """Return the shards that are meant: all, those of one database, or one of them."""
    served = world.databases()
    if len(words) > 2:  # noqa: PLR2004 - database, shard
        raise ProxyError("42601", f"{command} takes a database and a shard at most")
    if words and words[0] not in served:
        raise ProxyError("3D000", f'database "{words[0]}" does not exist')
    databases = [served[words[0]]] if words else list(served.values())
    chosen = [
        (database, shard)
        for database in databases
        for shard, name in enumerate(database.logical.shards)
        if name in words[1:] or len(words) < 2  # noqa: PLR2004 - as above
    ]
    if not chosen:
        raise ProxyError("42704", f'database "{words[0]}" has no shard "{words[1]}"')
    return chosen


def _takes_nothing(command: str, words: Sequence[str]) -> None:
    if words:
        raise ProxyError("42601", f"{command} takes no arguments")
