"""systemd, where it started us: the sockets that it listens on already, and what it wants to hear.

Without it nothing here does anything. Sockets that systemd keeps survive a restart of the proxy: clients that connect
meanwhile wait in the queue of the kernel, and none is refused.

https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

log = structlog.get_logger("pgchorus.systemd")

_FIRST_DESCRIPTOR: Final = 3
#: How long somebody who does not read may keep the loop.
_PATIENCE_S: Final = 0.1


def listening_sockets(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the sockets that were passed to this very process, none if there are none; they are taken once.

    Raises OSError for one that is no listening TCP socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        passed = socket.socket(fileno=descriptor)
        if passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(f"the descriptor {descriptor} that was passed is not a listening socket")
        passed.set_inheritable(False)
        passed.settimeout(0)
        found.append(passed)
    return found


def ready() -> None:
    """Say that clients are served."""
    _notify("READY=1")


def reloading() -> None:
    """Say that the configuration is being read again; ``ready`` says that it has been."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """Say that the end has begun."""
    _notify("STOPPING=1")


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return how often this process is to say that it is alive: twice as often as systemd wants; 0: it does not."""
    allowed, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    return int(allowed) / 2_000_000 if allowed.isdigit() and pid in ("", str(os.getpid())) else 0.0


async def say_alive_forever() -> None:
    """Feed the watchdog for as long as the loop turns; whoever supervises workers watches those by other means."""
    period_s = watchdog_s()
    while period_s:
        _notify("WATCHDOG=1")
        await asyncio.sleep(period_s)


def _notify(state: str) -> None:
    """Say it to whoever asked for it; that nobody hears is theirs to see, and keeps nothing here from going on.

    The variable outlives what it names: containers and whatever a service starts are given it as well.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(_PATIENCE_S)
            out.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        log.warning("systemd was not told", state=state.partition("\n")[0], address=address, error=str(error))
