"""A restart that refuses nobody: the proxy that runs gives its listening sockets to the next one.

The key ``handover`` names a Unix socket. ``pgchorus serve --takeover`` asks there for the sockets (SCM_RIGHTS), becomes
ready, and says so; then the old one accepts no more and drains. The sockets themselves are never closed, so no
connection that waits in their queues is lost. (With SO_REUSEPORT alone, those in the queue of the socket that is closed
are reset.) If the next one fails before it is ready, the old one has not changed.

Decides who may take over: processes of the same user, and root. Leaves to others what draining is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

import structlog

from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from proxy.config import Config

log = structlog.get_logger("pgchorus.handover")

_MOST_SOCKETS: Final = 253  # that the kernel passes at once
_LONGEST: Final = 1 << 16  # bytes of the message beside them
_ANSWER_S: Final = 10.0
_PEER: Final = struct.Struct("3i")  # of SO_PEERCRED: process, user, group
_READY: Final = b"ready\n"

Groups = list[list[socket.socket]]


@dataclass(slots=True)
class Taken:
    """What was taken over: the sockets of each worker that there was, and that of the metrics."""

    groups: Groups = field(default_factory=list)
    metrics: socket.socket | None = None
    _to_old: socket.socket | None = None

    def for_workers(self, workers: int) -> Groups:
        """Deal the sockets out: nobody's stays behind, and a worker too many accepts from another's."""
        count = len(self.groups)
        return [
            list(chain.from_iterable(self.groups[number::workers])) if number < count else self.groups[number % count]
            for number in range(workers)
        ]

    def say_ready(self) -> None:
        """Let the old proxy drain: clients are served here."""
        if self._to_old is not None:
            with self._to_old as to_old, suppress(OSError):  # it may have ended meanwhile
                to_old.sendall(_READY)
            self._to_old = None


def take_over(config: Config) -> Taken:
    """Ask the proxy that runs for its sockets; nothing is taken where none runs or the address is another one now."""
    assert config.handover is not None  # noqa: S101 - the command line has looked
    to_old = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    to_old.settimeout(_ANSWER_S)
    try:
        to_old.connect(str(config.handover))
    except (FileNotFoundError, ConnectionRefusedError):
        to_old.close()
        log.info("nobody to take over from", handover=str(config.handover))
        return Taken()
    message, descriptors, _, _ = socket.recv_fds(to_old, _LONGEST, _MOST_SOCKETS)
    passed = [socket.socket(fileno=one) for one in descriptors]
    if not message:
        to_old.close()
        raise OSError(f"the proxy at {config.handover} does not give its port to this user")
    said = json.loads(message)
    for one in passed:
        one.setblocking(False)  # noqa: FBT003 - the socket module's way
    metrics = passed.pop() if said["metrics"] is not None else None
    groups = [[passed.pop(0) for _ in range(count)] for count in said["groups"]]
    taken = Taken(groups, metrics, to_old)
    if said["listen"] != str(config.listen):
        log.warning("not taken over: the port is another one", before=said["listen"], now=str(config.listen))
        taken.groups = []
    if metrics is not None and said["metrics"] != str(config.metrics):
        metrics.close()
        taken.metrics = None
    return taken


class Handover:
    """Gives this proxy's sockets to the next one; ``on_taken`` is called when that serves."""

    def __init__(
        self, config: Config, groups: Groups, metrics: socket.socket | None, on_taken: Callable[[], None]
    ) -> None:
        self._config = config
        self._groups = groups
        self._metrics = metrics
        self._on_taken = on_taken
        self._door: socket.socket | None = None
        self._waiting: asyncio.Task[None] | None = None

    def open(self, path: Path) -> None:
        """Listen at ``path``, in place of whoever did before; raises OSError."""
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        self._door = door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.setblocking(False)  # noqa: FBT003 - the socket module's way
        fresh.unlink(missing_ok=True)
        door.bind(str(fresh))
        fresh.chmod(0o600)
        door.listen()
        fresh.rename(path)
        self._waiting = spawn(self._wait(door), name="handover")

    def close(self) -> None:
        """Stop. The path stays: it may be the next one's already, and leads nowhere if it is not."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._door is not None:
            self._door.close()

    async def _wait(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asking, _ = await loop.sock_accept(door)
            with asking:
                if await self._give(asking):
                    break
        log.info("the next proxy serves: draining")
        self._on_taken()

    async def _give(self, asking: socket.socket) -> bool:
        """Give the sockets to whoever asks; return whether that has become ready."""
        process, user, _ = _PEER.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user not in (0, os.geteuid()):
            log.warning("handover refused", user=user, process=process)
            return False
        config = self._config
        said = {
            "listen": str(config.listen),
            "groups": [len(group) for group in self._groups],
            "metrics": str(config.metrics) if self._metrics is not None else None,
        }
        passed: Sequence[socket.socket] = [*chain.from_iterable(self._groups)]
        if self._metrics is not None:
            passed = [*passed, self._metrics]
        log.info("another proxy takes over", process=process)
        try:
            socket.send_fds(asking, [json.dumps(said).encode()], [one.fileno() for one in passed])
            return await asyncio.get_running_loop().sock_recv(asking, len(_READY)) == _READY
        except OSError as error:
            log.warning("handover failed", process=process, error=str(error))
            return False
