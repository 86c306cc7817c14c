"""The server's half of SCRAM-SHA-256, as Postgres speaks it.

Decides what a client's SASL messages say and whether its proof holds. Leaves to others: where verifiers come from,
nonces and the secret for made-up salts (all are parameters: this file draws no random bytes), and what a channel is
bound by (``tls-server-end-point``, a hash of the certificate). Without TLS channel binding is not offered: the
mechanism SCRAM-SHA-256-PLUS is refused then and a client that says it could have bound (``y``) is right. With it, such
a client was lied to by somebody in between.

The derivation of keys is scramp's. Its server class is not used: it refuses the empty user name that
libpq sends (RFC 5802 has the name in the message; Postgres takes it from the startup packet and ignores this one), and
it fails an unknown user at the first message. The checks, their order and their texts are those of Postgres's
auth-scram.c.

RFC 5802, RFC 7677, https://www.postgresql.org/docs/18/sasl-authentication.html
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

import scramp  # type: ignore[import-untyped]  # it ships no type hints

from proxy.wire.backend import authentication_sasl, authentication_sasl_continue, authentication_sasl_final
from proxy.wire.body import BodyReader
from proxy.wire.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_AUTHORIZATION,
    AuthenticationFailed,
    ProtocolViolation,
    WireFailure,
    desynchronized,
)
from proxy.wire.saslprep import prepared

if TYPE_CHECKING:
    from typing import NoReturn

MECHANISM = b"SCRAM-SHA-256"
MECHANISM_PLUS = b"SCRAM-SHA-256-PLUS"
BINDING_TYPE = b"tls-server-end-point"
ITERATIONS = 4096  # Postgres's default of scram_iterations
SALT_BYTES = 16
KEY_BYTES = 32

_VERIFIER_PREFIX = "SCRAM-SHA-256$"
_LONGEST_PREPARED = 256  # characters: 4 ms at worst in which nobody else is served
_MALFORMED = "malformed SCRAM message"
_COMMA = ord(",")
# What binds no channel: base64 of the client's own gs2 header, "n,," or "y,,".
_NO_BINDING = {b"n": b"biws", b"y": b"eSws"}
_PRINTABLE = range(0x21, 0x7F)


@dataclass(frozen=True, slots=True, repr=False)
class Verifier:
    """What a server keeps in place of a password. Its repr shows none of it."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return f"Verifier(iterations={self.iterations})"

    @classmethod
    def of_password(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> Self:
        """Derive the verifier of a clear password; takes milliseconds, so once at start and never at login.

        A password that SASLprep refuses is taken as it is, as Postgres does. ``salt`` has at least 12 bytes and
        ``iterations`` is at least 4096, otherwise ScramException.
        """
        mechanism = scramp.ScramMechanism(MECHANISM.decode())
        ready = _prepared(password)
        if ready.isascii():
            with suppress(scramp.ScramException):
                salt, stored_key, server_key, iterations = mechanism.make_auth_info(ready, iterations, salt)
                return cls(iterations, salt, stored_key, server_key)
        # It would prepare others in its own way. Prove that salt and iterations are not what it refuses.
        mechanism.make_auth_info("password", iterations, salt)
        salted = hashlib.pbkdf2_hmac("sha256", ready.encode(), salt, iterations)
        stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        return cls(iterations, salt, stored_key, _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`` (pg_authid.rolpassword), or raise ValueError."""
        if not text.startswith(_VERIFIER_PREFIX):
            raise ValueError("a SCRAM verifier begins with SCRAM-SHA-256$")
        parameters, _, keys = text[len(_VERIFIER_PREFIX) :].partition("$")
        iterations, _, salt = parameters.partition(":")
        stored_key, _, server_key = keys.partition(":")
        if not (iterations.isascii() and iterations.isdigit() and int(iterations) > 0):
            raise ValueError("a SCRAM verifier has a positive number of iterations")
        verifier = cls(int(iterations), *(_decode_part(part) for part in (salt, stored_key, server_key)))
        if not verifier.salt or len(verifier.stored_key) != KEY_BYTES or len(verifier.server_key) != KEY_BYTES:
            raise ValueError("a SCRAM verifier has a salt and two keys of 32 bytes, in base64")
        return verifier

    @classmethod
    def made_up(cls, user: str, secret: bytes, iterations: int = ITERATIONS) -> Self:
        """Return what an unknown user is measured by; no password fits."""
        return cls(iterations, stable_salt(secret, user), bytes(KEY_BYTES), bytes(KEY_BYTES))

    def proves(self, password: str) -> bool:
        """Whether it is of this clear password; takes as long as making one."""
        ready = _prepared(password).encode("utf-8", "surrogateescape")
        salted = hashlib.pbkdf2_hmac("sha256", ready, self.salt, self.iterations)
        made = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        return hmac.compare_digest(made, self.stored_key)

    def format(self) -> str:
        """Write it as pg_authid.rolpassword has it."""
        salt, stored_key, server_key = (
            b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{_VERIFIER_PREFIX}{self.iterations}:{salt}${stored_key}:{server_key}"


def _prepared(password: str) -> str:
    """Return what is hashed in place of a password.

    Nobody's password is as long as what is left alone here. Normalizing takes time that grows with the square of the
    length, and keeps all other clients waiting: two seconds for the 64 KB that a client may send before it has proved
    anything.
    """
    return password if len(password) > _LONGEST_PREPARED else prepared(password)


def is_verifier(text: str) -> bool:
    """Tell a verifier from a clear password."""
    try:
        Verifier.parse(text)
    except ValueError:
        return False
    return True


def stable_salt(secret: bytes, user: str) -> bytes:
    """Make up a salt that a user always gets and nobody can foretell without ``secret``.

    Unknown users get it, so that asking twice does not tell them apart; clear passwords may be salted with it as well,
    so that every worker and every restart agrees.
    """
    return _hmac(secret, b"pgchorus salt\0" + user.encode("utf-8", "surrogateescape"))[:SALT_BYTES]


def decode_sasl_initial(body: bytes) -> tuple[bytes, bytes | None]:
    """Read SASLInitialResponse: (mechanism, data); data is None when the client sent none (length -1)."""
    try:
        reader = BodyReader(body)
        mechanism, data = reader.string(), reader.value()
        reader.end()
    except ProtocolViolation as violation:
        raise desynchronized(violation.message) from violation
    return mechanism, data


class _Stage(Enum):
    INITIAL = "nothing received: SASLInitialResponse is next"
    FIRST = "mechanism chosen without data: client-first-message is next"
    FINAL = "challenge sent: client-final-message is next"
    DONE = "server-final-message sent: the client is who it says"
    FAILED = "a failure was raised: nothing may follow"


class ScramServer:
    """One exchange. Send ``begin()``, then for each PasswordMessage body send ``respond(body)``, until ``done``.

    ``binding`` is what binds the channel, empty where there is no TLS (or a certificate that nothing can be bound to).
    ``verifier`` is None for an unknown user, who gets the same challenges, costs the same work and fails at the same
    point with the same words; ``iterations`` is what such a one is told. ``nonce`` is fresh for each exchange (at least
    18 random bytes in base64, no comma); ``secret`` is the same for all exchanges and processes of a cluster, or
    unknown users will show by their salt. After a failure the connection is to be closed: every failure is fatal.
    """

    __slots__ = ("_bare", "_bind_to", "_binding", "_first", "_known", "_nonce", "_plus", "_stage", "_user", "_verifier")

    def __init__(  # noqa: PLR0913 - what an exchange goes by
        self,
        user: str,
        verifier: Verifier | None,
        *,
        nonce: str,
        secret: bytes,
        binding: bytes = b"",
        iterations: int = ITERATIONS,
    ) -> None:
        if not nonce or not all(ord(letter) in _PRINTABLE and letter != "," for letter in nonce):
            raise ValueError("a nonce is printable ASCII without commas")
        self._user = user
        self._known = verifier is not None
        stand_in = Verifier.made_up(user, secret, iterations)  # made for everybody: the work must not tell who exists
        self._verifier = verifier or stand_in
        self._nonce = nonce.encode()
        self._stage = _Stage.INITIAL
        self._bind_to = binding
        self._plus = False  # the client has chosen to bind
        self._bare = b""
        self._binding = b""
        self._first = b""

    @property
    def done(self) -> bool:
        """Whether the client has proved who it is: AuthenticationOk may follow."""
        return self._stage is _Stage.DONE

    def begin(self) -> bytes:
        """Build the message that asks for SASL."""
        return authentication_sasl((MECHANISM_PLUS, MECHANISM) if self._bind_to else (MECHANISM,))

    def respond(self, body: bytes) -> bytes:
        """Take a PasswordMessage's body and return the message to send back; raises WireFailure of either kind."""
        try:
            return self._respond(body)
        except WireFailure:
            self._stage = _Stage.FAILED
            raise

    def _respond(self, body: bytes) -> bytes:
        stage = self._stage
        if stage is _Stage.INITIAL:
            mechanism, data = decode_sasl_initial(body)
            self._plus = mechanism == MECHANISM_PLUS and bool(self._bind_to)
            if mechanism != MECHANISM and not self._plus:
                raise desynchronized("client selected an invalid SASL authentication mechanism")
            self._stage = _Stage.FIRST
            if data is None:
                return authentication_sasl_continue(b"")
            return self._challenge(data)
        if stage is _Stage.FIRST:
            return self._challenge(body)
        if stage is _Stage.FINAL:
            return self._verify(body)
        raise RuntimeError(f"the exchange is over: {stage.value}")

    def _challenge(self, message: bytes) -> bytes:
        _check_message(message)
        at = self._flag(message)
        if message[at : at + 1] == b"a":
            _refuse("client uses authorization identity, but it is not supported")
        if message[at : at + 1] != b",":
            _malformed(f'Unexpected attribute "{_sanitize(message, at)}" in client-first-message.')
        bare = at + 1
        if message[bare : bare + 1] == b"m":
            _refuse("client requires an unsupported SCRAM extension")
        _, at = _named_attribute(message, bare, b"n")
        client_nonce, at = _named_attribute(message, at, b"r")
        if any(byte not in _PRINTABLE for byte in client_nonce):
            raise desynchronized("non-printable characters in SCRAM nonce")
        while at < len(message):
            _, _, at = _any_attribute(message, at)
        self._bare = message[bare:]
        self._nonce = client_nonce + self._nonce
        salt = b64encode(self._verifier.salt)
        self._first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        self._stage = _Stage.FINAL
        return authentication_sasl_continue(self._first)

    def _flag(self, message: bytes) -> int:
        """Read the channel-binding flag, note what the final message has to repeat; returns where it ends."""
        flag = message[:1]
        if flag == b"p":
            if not self._plus:
                _malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, "
                    "but the SCRAM message includes channel binding data."
                )
            kind, at = _named_attribute(message, 0, b"p")
            if kind != BINDING_TYPE:
                shown = kind.decode("ascii", "backslashreplace")
                raise desynchronized(f'unsupported SCRAM channel-binding type "{shown}"')
            self._binding = b64encode(message[: at + 1] + self._bind_to)
            return at
        if flag not in _NO_BINDING:
            _malformed(f'Unexpected channel-binding flag "{_sanitize(message, 0)}".')
        if self._plus:
            _malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
            )
        if flag == b"y" and self._bind_to:
            raise ProtocolViolation(
                INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not.  "
                "However, this server does support channel binding.",
                fatal=True,
            )
        if message[1:2] != b",":
            _malformed(f'Comma expected, but found character "{_sanitize(message, 1)}".')
        self._binding = _NO_BINDING[flag]
        return 2

    def _verify(self, message: bytes) -> bytes:
        _check_message(message)
        binding, at = _named_attribute(message, 0, b"c")
        if self._plus and not hmac.compare_digest(binding, self._binding):
            raise ProtocolViolation(INVALID_AUTHORIZATION, "SCRAM channel binding check failed", fatal=True)
        if binding != self._binding:
            raise desynchronized("unexpected SCRAM channel-binding attribute in client-final-message")
        nonce, at = _named_attribute(message, at, b"r")
        attribute = b""
        value = b""
        without_proof = at
        while attribute != b"p":
            without_proof = at - 1
            attribute, value, at = _any_attribute(message, at)
        proof = _decode_proof(value)
        if at < len(message):
            _malformed("Garbage found at the end of client-final-message.")
        if not hmac.compare_digest(nonce, self._nonce):
            raise desynchronized("invalid SCRAM response", detail="Nonce does not match.")
        signed = b"%b,%b,%b" % (self._bare, self._first, message[:without_proof])
        # Computed for unknown users too, and only then looked at: the time taken must not tell them apart.
        client_key = _xor(proof, _hmac(self._verifier.stored_key, signed))
        server_signature = _hmac(self._verifier.server_key, signed)
        proven = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if not (proven and self._known):
            raise AuthenticationFailed(self._user)
        self._stage = _Stage.DONE
        return authentication_sasl_final(b"v=" + b64encode(server_signature))


def _check_message(message: bytes) -> None:
    if not message:
        _malformed("The message is empty.")
    if 0 in message:
        _malformed("Message length does not match input length.")


def _named_attribute(message: bytes, at: int, name: bytes) -> tuple[bytes, int]:
    """Read ``name=value`` at offset ``at``: the value, and the offset behind its comma."""
    if message[at : at + 1] != name:
        _malformed(f'Expected attribute "{name.decode()}" but found "{_sanitize(message, at)}".')
    return _value(message, at, name)


def _any_attribute(message: bytes, at: int) -> tuple[bytes, bytes, int]:
    name = message[at : at + 1]
    if not name:
        _malformed("Attribute expected, but found end of string.")
    if not (name.isascii() and name.isalpha()):
        _malformed(f'Attribute expected, but found invalid character "{_sanitize(message, at)}".')
    value, behind = _value(message, at, name)
    return name, value, behind


def _value(message: bytes, at: int, name: bytes) -> tuple[bytes, int]:
    if message[at + 1 : at + 2] != b"=":
        _malformed(f'Expected character "=" for attribute "{name.decode()}".')
    comma = message.find(_COMMA, at + 2)
    if comma < 0:
        return message[at + 2 :], len(message)
    return message[at + 2 : comma], comma + 1


def _decode_proof(value: bytes) -> bytes:
    try:
        proof = b64decode(value, validate=True)
    except (Base64Error, ValueError):
        proof = b""
    if len(proof) != KEY_BYTES:
        _malformed("Malformed proof in client-final-message.")
    return proof


def _decode_part(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        return b""  # refused by its length


def _sanitize(message: bytes, at: int) -> str:
    """Show one byte as Postgres does; behind the end it reads its terminating NUL."""
    byte = message[at] if at < len(message) else 0
    return f"'{chr(byte)}'" if byte in _PRINTABLE else f"0x{byte:02x}"


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(KEY_BYTES)


def _malformed(detail: str) -> NoReturn:
    raise desynchronized(_MALFORMED, detail=detail)


def _refuse(message: str) -> NoReturn:
    raise ProtocolViolation(FEATURE_NOT_SUPPORTED, message, fatal=True)
