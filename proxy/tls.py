"""TLS towards clients: the server's certificate, and the layer between a socket and what speaks plain on it.

Decides when certificate and key are read again, and how the layer ends. Left to others: when TLS begins and who must
use it (proxy.login, proxy.access), and all cryptography (Python's ssl).

The layer is made of ``ssl.MemoryBIO`` rather than of the loop's ``start_tls``: a client that negotiates directly has
sent its first bytes before anybody knows that they are TLS, and here they can be handed on. The plain way pays nothing
for it: without TLS no layer exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from asn1crypto.x509 import Certificate  # type: ignore[import-untyped]  # it ships no type hints

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config import Tls

log = structlog.get_logger("pgchorus.tls")

ALPN: Final = "postgresql"  # what a client that negotiates directly has to name
_READ_BYTES: Final = 1 << 16
_WRITE_BYTES: Final = 1 << 18
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# RFC 5929 4.1: certificates signed with these are bound by SHA-256.
_WEAK: Final = frozenset({"md5", "sha1"})
_ENDLESS: Final = "shake"  # hashes that have no length of their own


class TlsError(Exception):
    """Certificate, key or client CA cannot be used; the text is for a person."""


def end_point(certificate: bytes) -> bytes:
    """Return the channel binding ``tls-server-end-point`` of a certificate in DER (RFC 5929, section 4).

    Empty where its signature names no hash of a length of its own (Ed448), or one that is not known here (SHA-3): then
    nothing can be bound to it.
    """
    try:
        algorithm = str(Certificate.load(certificate).hash_algo)
        found = hashlib.new("sha256" if algorithm in _WEAK else algorithm, certificate)
    except ValueError:
        return b""
    return b"" if algorithm.startswith(_ENDLESS) else found.digest()


class TlsServer:
    """The context for new connections. It follows its files: whoever replaces them need not tell."""

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self._seen = self._look()
        self.context, self.binding = self._load()

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes with the files."""
        found = []
        for file in filter(None, (self._settings.certificate, self._settings.key, self._settings.client_ca)):
            try:
                status = file.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _load(self) -> tuple[ssl.SSLContext, bytes]:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[settings.minimum_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        # As in Postgres: who resumes a session does not show a certificate again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols([ALPN])
        try:
            context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
            if settings.client_ca is not None:
                context.load_verify_locations(settings.client_ca)
                context.verify_mode = ssl.CERT_OPTIONAL  # who has to show one is for the rules of auth
            certificate = ssl.PEM_cert_to_DER_cert(_first_certificate(settings.certificate.read_text()))
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise TlsError(f"TLS certificate {settings.certificate} cannot be used: {error}") from error
        return context, end_point(certificate)

    def refresh(self, *, forced: bool = False) -> None:
        """Read the files again if they have changed; keep what is in use when the new ones are no good."""
        seen = self._look()
        if seen == self._seen and not forced:
            return
        self._seen = seen  # also when it fails: the next look is for the next change
        try:
            self.context, self.binding = self._load()
        except TlsError as error:
            log.warning("certificate not reloaded, the one before stays in use", error=str(error))
        else:
            log.info("certificate reloaded", file=str(self._settings.certificate))


def _no_password() -> str:
    raise ValueError("its key is encrypted, and there is nobody to ask for the passphrase")


def _first_certificate(text: str) -> str:
    start = text.index(ssl.PEM_HEADER)
    end = text.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)
    return text[start:end]


class TlsLayer(asyncio.Transport, asyncio.Protocol):
    """A transport to the protocol above it (``inner``), a protocol to the transport below (``raw``).

    A handshake that fails ends the connection.
    """

    def __init__(self, raw: asyncio.Transport, inner: asyncio.Protocol, server: TlsServer) -> None:
        super().__init__()
        self._raw = raw
        self._inner = inner
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = server.context.wrap_bio(self._in, self._out, server_side=True)
        self.binding = server.binding
        self.established = False
        self._pending: list[bytes] = []  # written before the handshake was over
        self._closed = False
        raw.set_protocol(self)

    # --- what the login asks ------------------------------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """The protocol that the client named, if it is ours."""
        return self._tls.selected_alpn_protocol()

    @property
    def version(self) -> str:
        """The protocol's version, as the library names it."""
        return self._tls.version() or ""

    @property
    def client_name(self) -> str | None:
        """The common name in the client's certificate, as in Postgres the first; None when it has shown none.

        A certificate that has expired counts as none: TLS 1.2 resumes sessions by their ids as well, which cannot be
        switched off here, and nobody looks at the certificate then.
        """
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        if "notAfter" in certificate and ssl.cert_time_to_seconds(certificate["notAfter"]) < time():
            return None
        names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
        return names[0] if names else None

    # --- asyncio.Protocol, from below ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Decrypt, and hand on what is whole."""
        if self._closed:
            return
        self._in.write(data)
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
                pending, self._pending = self._pending, []
                for waiting in pending:
                    self._encrypt(waiting)
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        plain, ended, broken = self._decrypt()
        self._send()
        if plain:
            self._inner.data_received(plain)
        if broken is not None:
            self._fail(broken)
        elif ended:
            self._inner.eof_received()

    def _fail(self, error: ssl.SSLError) -> None:
        """Send the alert, and nothing after it. What was whole before is done, as of a client that has gone."""
        log.info("TLS failed", client=self.get_extra_info("peername"), error=error.reason or str(error))
        self._send()
        self._closed = True
        self._raw.close()

    def _decrypt(self) -> tuple[bytes, bool, ssl.SSLError | None]:
        """Return what could be read, whether it is the end, and what was wrong behind it."""
        chunks = []
        ended = False
        broken = None
        try:
            while chunk := self._tls.read(_READ_BYTES):
                chunks.append(chunk)
            ended = True
        except ssl.SSLWantReadError:
            pass  # all that has come so far
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            broken = error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks), ended, broken

    def eof_received(self) -> bool:
        """The client says no more, with close_notify or without; who is in the handshake has gone."""
        if self.established:
            self._inner.eof_received()
        return self.established

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand it on."""
        self._closed = True
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._inner.resume_writing()

    # --- asyncio.Transport, from above --------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; kept while the handshake is under way."""
        if self._closed:
            return
        if not self.established:
            self._pending.append(bytes(data))
            return
        try:
            self._encrypt(data)
        except ssl.SSLError as error:
            log.info("TLS failed", client=self.get_extra_info("peername"), error=error.reason or str(error))
            self.abort()
            return
        self._send()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of them."""
        for data in list_of_data:
            self.write(data)

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_WRITE_BYTES]) :]
            self._send()

    def _send(self) -> None:
        if self._out.pending and not self._raw.is_closing():
            self._raw.write(self._out.read())

    def pause_reading(self) -> None:
        """Pass the pressure on."""
        if not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._raw.is_closing():
            self._raw.resume_reading()

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closed or self._raw.is_closing()

    def close(self) -> None:
        """Say so to the client, send what is queued, then close."""
        if not self._closed and self.established:
            with suppress(ssl.SSLError):  # it has not said so itself, which nobody waits for
                self._tls.unwrap()
            self._send()
        self._closed = True
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        self._raw.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the transport below."""
        return self._raw.get_extra_info(name, default)
