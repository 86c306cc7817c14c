"""A client that speaks TLS and decides itself when what it has encrypted is sent, and what comes with it."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proxy.wire.startup import SSLRequest, StartupMessage
from wire_client import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = Path(__file__).parent / "tls"


class EncryptedClient:
    """One connection, of a role that is trusted, logged in."""

    def __init__(self, address: tuple[str, int], database: str) -> None:
        self.socket = socket.create_connection(address, PATIENCE_SECONDS)
        self.socket.sendall(SSLRequest().encode())
        assert self.socket.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(FILES / "ca.crt"))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._whenever_it_can(self._tls.do_handshake)
        self.send(self.records(StartupMessage(3, 0, {"user": "postgres", "database": database}).encode()))
        self.read(b"Z\0\0\0\5I")

    def _whenever_it_can(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self.send(self._out.read())
                got = self.socket.recv(1 << 16)
                if not got:
                    self._in.write_eof()
                self._in.write(got)
            else:
                self.send(self._out.read())
                return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        if data:  # nothing may be sent after a shutdown, not even nothing
            self.socket.sendall(data)

    def records(self, plain: bytes) -> bytes:
        """Encrypt, and send nothing."""
        self._tls.write(plain)
        return self._out.read()

    def goodbye(self) -> bytes:
        """Return close_notify, not sent."""
        with suppress(ssl.SSLError):  # the other side has not said so
            self._tls.unwrap()
        return self._out.read()

    def read(self, until: bytes = b"") -> bytes:
        """Read until what has come ends so; to the connection's end, or to an alert, if nothing is to be waited for."""
        found = b""
        while not (until and found.endswith(until)):
            try:
                more = self._whenever_it_can(partial(self._tls.read, 1 << 16))
            except ssl.SSLError as error:
                return found + str(error.reason).encode()
            if not more:
                return found
            found += more
        return found
