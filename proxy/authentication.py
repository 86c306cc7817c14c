"""A client proves who it is: password, MD5, SCRAM-SHA-256 with and without channel binding, or its certificate.

Decides whether the proof holds; raises AuthenticationFailed, in the same words and after the same work for a wrong
password and for an unknown user. Left to others: which method a client has to use (proxy.access), the messages of SCRAM
(proxy.wire.scram), what follows (proxy.login).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.wire import backend
from proxy.wire.body import BodyReader
from proxy.wire.errors import AuthenticationFailed, ProtocolViolation, desynchronized
from proxy.wire.scram import ITERATIONS, ScramServer, Verifier, is_verifier, stable_salt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.connection import ClientConnection

_NONCE_BYTES: Final = 18
_SALT_BYTES: Final = 4


class Credentials:
    """What is known of the users of one server: secrets as configured, and a SCRAM verifier of each, made at once.

    A verifier costs milliseconds: made at the first login it would tell who exists. ``secret``: of the cluster
    (:meth:`proxy.database.LogicalDatabase.nonce`), for what is made up for those who do not.
    """

    def __init__(self, users: Mapping[str, str], secret: bytes) -> None:
        # The same in every proxy of a cluster, so that made-up salts of unknown users agree, and made of nothing that
        # anybody could guess: whoever asks for a salt has half of what it takes to try guesses.
        self.secret = secret
        self._passwords = {user: given for user, given in users.items() if not is_verifier(given)}
        self._verifiers = {
            user: Verifier.parse(given)
            if is_verifier(given)
            else Verifier.of_password(given, stable_salt(self.secret, user))
            for user, given in users.items()
        }

        # Somebody who exists says by them how often to iterate: so do made-up ones, or they would be told apart.
        self._iterations = sorted(known.iterations for known in self._verifiers.values()) or [ITERATIONS]

    def iterations(self, user: str) -> int:
        """Return how often a user iterates if there is none of this name: always as often, and as somebody does."""
        number = int.from_bytes(stable_salt(self.secret, f"iterations of {user}"))
        return self._iterations[number % len(self._iterations)]

    def verifier(self, user: str) -> Verifier | None:
        """Return a user's verifier, None for an unknown one."""
        return self._verifiers.get(user)

    def md5(self, user: str, salt: bytes) -> tuple[bytes, bool]:
        """Return the right answer to an MD5 challenge, and whether the user exists (if not it is any answer)."""
        password = self._passwords.get(user)
        known = password is not None
        inner = hashlib.md5(f"{password or self.secret.hex()}{user}".encode(), usedforsecurity=False).hexdigest()
        answer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
        return b"md5" + answer.encode(), known

    def check_password(self, user: str, given: bytes) -> bool:
        """Compare a clear password by its verifier: as much work for everybody. Takes milliseconds."""
        known = self._verifiers.get(user)
        stand_in = Verifier.made_up(user, self.secret, self.iterations(user))
        expected = known or stand_in
        return expected.proves(given.decode("utf-8", "surrogateescape")) and known is not None


async def authenticate(connection: ClientConnection, credentials: Credentials, user: str, method: str) -> None:
    """Return when the client has proved to be ``user``; raises what refuses it."""
    if method == "trust":
        return
    if method == "cert":
        _by_certificate(connection, user)
    elif method == "scram-sha-256":
        await _by_scram(connection, credentials, user)
    elif method == "md5":
        await _by_md5(connection, credentials, user)
    elif method == "password":
        await _by_password(connection, credentials, user)
    else:
        raise AssertionError(method)


def _by_certificate(connection: ClientConnection, user: str) -> None:
    tls = connection.tls
    if tls is None or tls.client_name is None:
        raise ProxyError("28000", "connection requires a valid client certificate")
    if tls.client_name != user:
        raise ProxyError("28000", f'certificate authentication failed for user "{user}"')


async def _by_scram(connection: ClientConnection, credentials: Credentials, user: str) -> None:
    exchange = ScramServer(
        user,
        credentials.verifier(user),
        nonce=secrets.token_urlsafe(_NONCE_BYTES),
        secret=credentials.secret,
        binding=connection.tls.binding if connection.tls is not None else b"",
        iterations=credentials.iterations(user),
    )
    connection.write(exchange.begin())
    while not exchange.done:
        connection.write(exchange.respond(await connection.receive_proof("SASL")))


async def _by_md5(connection: ClientConnection, credentials: Credentials, user: str) -> None:
    salt = secrets.token_bytes(_SALT_BYTES)
    connection.write(backend.authentication_md5_password(salt))
    given = _password(await connection.receive_proof("password"))
    expected, known = credentials.md5(user, salt)
    if not hmac.compare_digest(given, expected) or not known:
        raise AuthenticationFailed(user)


async def _by_password(connection: ClientConnection, credentials: Credentials, user: str) -> None:
    connection.write(backend.authentication_cleartext_password())
    given = _password(await connection.receive_proof("password"))
    if not await asyncio.to_thread(credentials.check_password, user, given):
        raise AuthenticationFailed(user)


def _password(body: bytes) -> bytes:
    """Read PasswordMessage."""
    try:
        reader = BodyReader(body)
        password = reader.string()
        reader.end()
    except ProtocolViolation as violation:
        raise desynchronized("invalid password packet size") from violation
    if not password:
        raise ProxyError("28P01", "empty password returned by client")
    return password
