"""The sockets that clients connect to: systemd's, or our own.

Decides that two proxies do not share a port by accident: sockets of workers are bound with SO_REUSEPORT, which would
let anybody of the same user join them. Leaves to others who accepts.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from proxy import systemd

if TYPE_CHECKING:
    from proxy.config import Address

LISTEN_BACKLOG = 1024


def sockets_for(address: Address, workers: int = 1) -> list[list[socket.socket]]:
    """Return the sockets of each worker, none listening yet unless they were passed; raises OSError.

    Those that systemd has passed are everybody's. Of others each worker has its own, and the kernel deals connections
    out.
    """
    passed = systemd.listening_sockets()
    if passed:
        return [passed] * workers
    if workers == 1:
        return [bound(address, shared=False)]
    for probe in bound(address, shared=False):
        probe.close()
    return [bound(address, shared=True) for _ in range(workers)]


def bound(address: Address, *, shared: bool) -> list[socket.socket]:
    """Return a socket for each address that a host's name has."""
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)  # noqa: FBT003 - the socket module's way
            try:
                one.bind(where)
            except OSError as error:
                raise OSError(error.errno, f"cannot listen on {address}: {(error.strerror or '').lower()}") from error
    except BaseException:
        for one in made:
            one.close()
        raise
    return made
