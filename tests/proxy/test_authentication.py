"""Failed logins: the same work and the same words, whether or not there is such a user. Counted, not timed."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.authentication import Credentials, authenticate
from proxy.wire.errors import AuthenticationFailed
from proxy.wire.scram import ITERATIONS, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.connection import ClientConnection

VERIFIER = Verifier.of_password("right", b"0123456789abcdef", ITERATIONS + 1000).format()
SECRET = b"of the cluster"
USERS = {"clear": "right", "verified": VERIFIER}
CRYPTOGRAPHY = (
    (hashlib, "pbkdf2_hmac"),
    (hashlib, "sha256"),
    (hashlib, "md5"),
    (hmac, "digest"),
    (hmac, "compare_digest"),
)


class Client:
    """A client that answers every challenge, wrongly."""

    tls = None

    def __init__(self, method: str) -> None:
        self.method = method
        self.said: list[bytes] = []
        self._answers = self._answer()

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def _answer(self) -> Iterator[bytes]:
        if self.method != "scram-sha-256":
            yield b"wrong\0"
            return
        first = b"n,,n=,r=client"
        yield b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first
        nonce = self.said[-1].partition(b"r=")[2].partition(b",")[0]
        yield b"c=biws,r=" + nonce + b",p=" + b64encode(bytes(32))

    async def receive_proof(self, _what: str) -> bytes:
        return next(self._answers)


async def work_of(monkeypatch: pytest.MonkeyPatch, credentials: Credentials, user: str, method: str) -> list[Any]:
    """Let a user fail; return what was computed on the way, in order."""
    done: list[Any] = []

    def counted(name: str, call: Any) -> Any:
        def wrapper(*args: Any, **named: Any) -> Any:
            done.append((name, *(one for one in args if isinstance(one, int | str))))
            return call(*args, **named)

        return wrapper

    client = Client(method)
    with monkeypatch.context() as patch:
        for module, name in CRYPTOGRAPHY:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        with pytest.raises(AuthenticationFailed) as failed:
            await authenticate(cast("ClientConnection", client), credentials, user, method)
    assert str(failed.value).count(user) == 1
    return [*done, str(failed.value).replace(user, "USER"), [len(one) for one in client.said]]


@pytest.mark.parametrize("method", ["scram-sha-256", "password", "md5"])
@pytest.mark.parametrize("user", ["clear", "verified"])
async def test_an_unknown_user_costs_what_a_known_one_costs(
    monkeypatch: pytest.MonkeyPatch, method: str, user: str
) -> None:
    credentials = Credentials({user: USERS[user]}, SECRET)
    known = await work_of(monkeypatch, credentials, user, method)
    unknown = await work_of(monkeypatch, credentials, "nobody", method)
    assert len(known) > 3, known
    assert known == unknown


def test_made_up_users_iterate_as_often_as_some_that_exist() -> None:
    credentials = Credentials(USERS, SECRET)
    names = [f"nobody{number}" for number in range(50)]
    assert {credentials.iterations(name) for name in names} == {ITERATIONS, ITERATIONS + 1000}
    again = Credentials(dict(reversed(USERS.items())), SECRET)
    assert [again.iterations(name) for name in names] == [credentials.iterations(name) for name in names]
    assert Credentials({}, SECRET).iterations("nobody") == ITERATIONS


def test_salts_tell_nothing_of_passwords() -> None:
    """Whoever asks for the salt of somebody has proved nothing yet, and could try guesses by it."""
    one, other = (Credentials({"known": password}, SECRET) for password in ("right", "other"))
    for user in ("known", "nobody"):
        salts = {(known.verifier(user) or Verifier.made_up(user, known.secret, 1)).salt for known in (one, other)}
        assert len(salts) == 1
    assert Verifier.made_up("nobody", b"of another", 1).salt not in salts
