"""SCRAM-SHA-256: a right and a wrong password, stored verifiers, unknown users, and messages that are not SCRAM.

The texts in MALFORMED_FIRST and MALFORMED_FINAL are the answers of a PostgreSQL 18.6 to the same messages.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from struct import pack
from unittest import mock

import pytest
import scramp  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.errors import AuthenticationFailed, ProtocolViolation, WireFailure
from proxy.wire.saslprep import prepared
from proxy.wire.scram import MECHANISM, ScramServer, Verifier, decode_sasl_initial, is_verifier, stable_salt

DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)

NONCE = "3rfcNHYJY1ZVvWVs7j"
SECRET = b"the cluster's secret"
PENCIL = Verifier.of_password("pencil", b"0123456789abcdef")
# Made by PostgreSQL 18.6: CREATE ROLE ... PASSWORD 'pencil', read from pg_authid.
STORED = (
    "SCRAM-SHA-256$4096:XT8tHwgXY4pedC+pGKwsLw==$"
    "hv0CYF0z2A1UvUaE49SDg7YR1toNTpRNbEHUMtm2aNA=:RQ4OQbJAw9dS7uzbqJe2g/Hg9VjK5TOQyvoArLW4iF8="
)
PROOF = b64encode(bytes(32)).decode()


def initial(data: bytes, mechanism: bytes = MECHANISM) -> bytes:
    return mechanism + b"\0" + pack(">i", len(data)) + data


def server_for(verifier: Verifier | None, user: str = "app") -> ScramServer:
    return ScramServer(user, verifier, nonce=NONCE, secret=SECRET)


def challenge_of(message: bytes) -> str:
    assert message[:1] == b"R"
    assert message[5:9] == b"\0\0\0\x0b"
    return message[9:].decode()


def log_in(server: ScramServer, password: str) -> bool:
    """Take the client's part with scramp's own client; False when the server refuses the password."""
    client = scramp.ScramClient([MECHANISM.decode()], "app", password)
    client.set_server_first(challenge_of(server.respond(initial(client.get_client_first().encode()))))
    try:
        answer = server.respond(client.get_client_final().encode())
    except AuthenticationFailed:
        return False
    assert answer[5:9] == b"\0\0\0\x0c"
    client.set_server_final(answer[9:].decode())
    return True


def client_final(challenge: str, bare: str, password: str, header: str = "n,,") -> str:
    """Compute a client-final-message from the RFC, without any library's client."""
    nonce, salt, iterations = (part[2:] for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
    key = hmac.digest(salted, b"Client Key", "sha256")
    without = f"c={b64encode(header.encode()).decode()},r={nonce}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{bare},{challenge},{without}".encode(), "sha256")
    proof = bytes(left ^ right for left, right in zip(key, signature, strict=True))
    return f"{without},p={b64encode(proof).decode()}"


@pytest.mark.parametrize("verifier", [PENCIL, Verifier.parse(STORED)], ids=["of a password", "stored"])
def test_right_and_wrong_passwords(verifier: Verifier) -> None:
    server = server_for(verifier)
    assert log_in(server, "pencil")
    assert server.done
    server = server_for(verifier)
    assert not log_in(server, "pen")
    assert not server.done


@pytest.mark.parametrize("header", ["n,,", "y,,"])
@pytest.mark.parametrize("name", ["", "app", "=2C"])
def test_libpq_sends_no_name_and_may_be_able_to_bind(header: str, name: str) -> None:
    bare = f"n={name},r=clientnonce"
    server = server_for(PENCIL)
    challenge = challenge_of(server.respond(initial((header + bare).encode())))
    assert challenge == f"r=clientnonce{NONCE},s={b64encode(PENCIL.salt).decode()},i=4096"
    server.respond(client_final(challenge, bare, "pencil", header).encode())
    assert server.done


def test_rfc_7677_example() -> None:
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    server = ScramServer(
        "user",
        Verifier.of_password("pencil", salt),
        nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        secret=SECRET,
    )
    first = server.respond(initial(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
    assert challenge_of(first) == (
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = server.respond(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert final[9:] == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_plus_is_not_offered_and_not_taken() -> None:
    server = server_for(PENCIL)
    assert server.begin() == b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
    with pytest.raises(ProtocolViolation, match="client selected an invalid SASL authentication mechanism"):
        server.respond(initial(b"p=tls-server-end-point,,n=,r=abc", b"SCRAM-SHA-256-PLUS"))


BINDING = b"hash of a certificate"
PLUS_HEADER = "p=tls-server-end-point,,"


def bound(binding: bytes = BINDING) -> ScramServer:
    return ScramServer("app", PENCIL, nonce=NONCE, secret=SECRET, binding=binding)


def client_final_bound(challenge: str, binding: bytes) -> str:
    """Repeat what client_final says, with a header that binds."""
    plain = client_final(challenge, "n=,r=abc", "pencil", "").split(",", 1)[1].rpartition(",p=")[0]
    channel = b64encode(PLUS_HEADER.encode() + binding).decode()
    without = f"c={channel},{plain}"
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", PENCIL.salt, PENCIL.iterations)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = f"n=,r=abc,{challenge},{without}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
    return f"{without},p={b64encode(proof).decode()}"


def test_over_tls_the_channel_is_bound() -> None:
    assert bound().begin().endswith(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    server = bound()
    first = (PLUS_HEADER + "n=,r=abc").encode()
    challenge = challenge_of(server.respond(initial(first, b"SCRAM-SHA-256-PLUS")))
    server.respond(client_final_bound(challenge, BINDING).encode())
    assert server.done


def test_another_certificate_in_between_is_noticed() -> None:
    server = bound()
    first = (PLUS_HEADER + "n=,r=abc").encode()
    challenge = challenge_of(server.respond(initial(first, b"SCRAM-SHA-256-PLUS")))
    with pytest.raises(ProtocolViolation, match="channel binding check failed") as caught:
        server.respond(client_final_bound(challenge, b"of somebody else").encode())
    assert (caught.value.sqlstate, caught.value.fatal) == ("28000", True)


@pytest.mark.parametrize(
    ("mechanism", "first", "message", "detail"),
    [
        (b"SCRAM-SHA-256", b"y,,n=,r=abc", "SCRAM channel binding negotiation error", "thinks the server does not"),
        (b"SCRAM-SHA-256-PLUS", b"n,,n=,r=abc", "malformed SCRAM message", "does not include channel binding"),
        (b"SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abc", 'channel-binding type "tls-unique"', ""),
        (b"SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc", "malformed SCRAM message", "without channel binding"),
    ],
)
def test_downgrades_and_mixtures_are_refused(mechanism: bytes, first: bytes, message: str, detail: str) -> None:
    with pytest.raises(ProtocolViolation, match=message) as caught:
        bound().respond(initial(first, mechanism))
    assert detail in caught.value.detail
    assert caught.value.fatal


def test_a_client_that_does_not_bind_may_say_so() -> None:
    assert log_in(bound(), "pencil")
    assert not log_in(bound(), "pen")


def test_a_mechanism_without_data_gets_an_empty_challenge() -> None:
    server = server_for(PENCIL)
    assert server.respond(MECHANISM + b"\0\xff\xff\xff\xff") == b"R\0\0\0\x08\0\0\0\x0b"
    bare = "n=,r=abc"
    challenge = challenge_of(server.respond(f"n,,{bare}".encode()))
    server.respond(client_final(challenge, bare, "pencil").encode())
    assert server.done


# ---- unknown users ----


def test_an_unknown_user_sees_what_a_known_one_sees() -> None:
    salts = set()
    for user in ("ghost", "ghost", "spectre"):
        server = server_for(None, user)
        challenge = challenge_of(server.respond(initial(b"n,,n=,r=abc")))
        nonce, salt, iterations = challenge.split(",")
        assert (nonce, iterations) == (f"r=abc{NONCE}", "i=4096")
        assert len(b64decode(salt[2:])) == len(PENCIL.salt)
        salts.add(salt)
        final = client_final(challenge, "n=,r=abc", "anything").encode()
        with pytest.raises(AuthenticationFailed) as caught:
            server.respond(final)
        assert caught.value.message == f'password authentication failed for user "{user}"'
        assert (caught.value.sqlstate, caught.value.severity, caught.value.detail) == ("28P01", "FATAL", "")
    assert len(salts) == 2


def test_the_salt_of_an_unknown_user_needs_the_secret() -> None:
    assert stable_salt(b"a", "ghost") != stable_salt(b"b", "ghost")
    assert stable_salt(b"a", "ghost") == stable_salt(b"a", "ghost")


def test_the_made_up_keys_open_nothing() -> None:
    # StoredKey is all zero: a proof made for it must fail for being unknown, not for its cost of guessing.
    server = server_for(None)
    challenge = challenge_of(server.respond(initial(b"n,,n=,r=abc")))
    with mock.patch("hmac.compare_digest", return_value=True), pytest.raises(AuthenticationFailed):
        server.respond(client_final(challenge, "n=,r=abc", "x").encode())


def test_the_same_work_for_known_and_unknown() -> None:
    def calls(verifier: Verifier | None) -> list[str]:
        server = server_for(verifier)
        challenge = challenge_of(server.respond(initial(b"n,,n=,r=abc")))
        final = client_final(challenge, "n=,r=abc", "wrong").encode()
        spy = mock.Mock(wraps=hmac)
        with mock.patch("proxy.wire.scram.hmac", spy), pytest.raises(AuthenticationFailed):
            server.respond(final)
        return [call[0] for call in spy.mock_calls]

    assert calls(PENCIL) == calls(None) != []


def test_nothing_follows_the_end() -> None:
    server = server_for(PENCIL)
    assert log_in(server, "pencil")
    with pytest.raises(RuntimeError):
        server.respond(b"c=biws")
    failed = server_for(PENCIL)
    with pytest.raises(ProtocolViolation):
        failed.respond(b"")
    with pytest.raises(RuntimeError):
        failed.respond(initial(b"n,,n=,r=abc"))


@pytest.mark.parametrize("nonce", ["", "a,b", "a b", "é", "a\n"])
def test_a_nonce_that_would_break_the_challenge(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        ScramServer("app", PENCIL, nonce=nonce, secret=SECRET)


# ---- messages that are not SCRAM ----

BAD_MESSAGE = "malformed SCRAM message"
MALFORMED_INITIAL = [
    (b"FOO\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
    (b"SCRAM", "invalid string in message"),
    (b"", "invalid string in message"),
    (b"SCRAM-SHA-256\0", "insufficient data left in message"),
    (b"SCRAM-SHA-256\0\0\0\0\5a", "insufficient data left in message"),
    (b"SCRAM-SHA-256\0\xff\xff\xff\xfe", "insufficient data left in message"),
    (b"SCRAM-SHA-256\0\0\0\0\1ab", "invalid message format"),
]
MALFORMED_FIRST = [
    (b"", BAD_MESSAGE, "The message is empty."),
    (b"n,,n=,r=a\0b", BAD_MESSAGE, "Message length does not match input length."),
    (
        b"p=tls-unique,,n=,r=abc",
        BAD_MESSAGE,
        (
            "The client selected SCRAM-SHA-256 without channel binding, "
            "but the SCRAM message includes channel binding data."
        ),
    ),
    (b"x,,n=", BAD_MESSAGE, "Unexpected channel-binding flag \"'x'\"."),
    (b"\xff,,", BAD_MESSAGE, 'Unexpected channel-binding flag "0xff".'),
    (b"n", BAD_MESSAGE, 'Comma expected, but found character "0x00".'),
    (b"n,", BAD_MESSAGE, 'Unexpected attribute "0x00" in client-first-message.'),
    (b"n,z,n=,r=abc", BAD_MESSAGE, "Unexpected attribute \"'z'\" in client-first-message."),
    (b"n,a=foo,n=,r=abc", "client uses authorization identity, but it is not supported", ""),
    (b"n,,m=a,n=,r=b", "client requires an unsupported SCRAM extension", ""),
    (b"n,,x=,r=abc", BAD_MESSAGE, 'Expected attribute "n" but found "\'x\'".'),
    (b"n,,n,r=abc", BAD_MESSAGE, 'Expected character "=" for attribute "n".'),
    (b"n,,n=,x=abc", BAD_MESSAGE, 'Expected attribute "r" but found "\'x\'".'),
    (b"n,,n=a", BAD_MESSAGE, 'Expected attribute "r" but found "0x00".'),
    (b"n,,\x01=", BAD_MESSAGE, 'Expected attribute "n" but found "0x01".'),
    (b"n,,n=,r=a b", "non-printable characters in SCRAM nonce", ""),
    (b"n,,n=,r=\xc3\xa9", "non-printable characters in SCRAM nonce", ""),
    (b"n,,n=,r=abc,1=1", BAD_MESSAGE, "Attribute expected, but found invalid character \"'1'\"."),
    (b"n,,n=,r=abc,xx", BAD_MESSAGE, 'Expected character "=" for attribute "x".'),
]
MALFORMED_FINAL = [
    ("", BAD_MESSAGE, "The message is empty."),
    ("c=biws\0", BAD_MESSAGE, "Message length does not match input length."),
    (f"c=eSws,r=NONCE,p={PROOF}", "unexpected SCRAM channel-binding attribute in client-final-message", ""),
    (f"c=biws,r=NONCEx,p={PROOF}", "invalid SCRAM response", "Nonce does not match."),
    (f"c=biws,r=x,p={PROOF}", "invalid SCRAM response", "Nonce does not match."),
    ("c=biws,r=NONCE", BAD_MESSAGE, "Attribute expected, but found end of string."),
    ("c=biws,r=NONCE,", BAD_MESSAGE, "Attribute expected, but found end of string."),
    ("c=biws,r=NONCE,p=abc", BAD_MESSAGE, "Malformed proof in client-final-message."),
    ("c=biws,r=NONCE,p=", BAD_MESSAGE, "Malformed proof in client-final-message."),
    (f"c=biws,r=NONCE,p={PROOF} ", BAD_MESSAGE, "Malformed proof in client-final-message."),
    (f"c=biws,r=NONCE,p=\xff{PROOF[1:]}", BAD_MESSAGE, "Malformed proof in client-final-message."),
    (f"c=biws,r=NONCE,p=AAAA {PROOF[4:]}", BAD_MESSAGE, "Malformed proof in client-final-message."),
    (f"c=biws,r=NONCE,p={PROOF},x=1", BAD_MESSAGE, "Garbage found at the end of client-final-message."),
    (
        f"c=biws,r=NONCE,1=1,p={PROOF}",
        BAD_MESSAGE,
        "Attribute expected, but found invalid character \"'1'\".",
    ),
    ("c=biws,r=NONCE,x", BAD_MESSAGE, 'Expected character "=" for attribute "x".'),
    ("x=biws", BAD_MESSAGE, 'Expected attribute "c" but found "\'x\'".'),
    ("r=NONCE", BAD_MESSAGE, 'Expected attribute "c" but found "\'r\'".'),
    ("c=biws,x", BAD_MESSAGE, 'Expected attribute "r" but found "\'x\'".'),
]


@pytest.mark.parametrize(("body", "message"), MALFORMED_INITIAL)
def test_malformed_initial_response(body: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        server_for(PENCIL).respond(body)
    assert (caught.value.sqlstate, caught.value.message, caught.value.fatal) == ("08P01", message, True)


@pytest.mark.parametrize(("data", "message", "detail"), MALFORMED_FIRST)
@pytest.mark.parametrize("verifier", [PENCIL, None], ids=["known", "unknown"])
def test_malformed_first_message(data: bytes, message: str, detail: str, verifier: Verifier | None) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        server_for(verifier).respond(initial(data))
    assert (caught.value.message, caught.value.detail, caught.value.fatal) == (message, detail, True)
    assert caught.value.sqlstate == ("08P01" if detail or "nonce" in message else "0A000")


@pytest.mark.parametrize(("text", "message", "detail"), MALFORMED_FINAL)
@pytest.mark.parametrize("verifier", [PENCIL, None], ids=["known", "unknown"])
def test_malformed_final_message(text: str, message: str, detail: str, verifier: Verifier | None) -> None:
    server = server_for(verifier)
    server.respond(initial(b"n,,n=,r=abc"))
    with pytest.raises(ProtocolViolation) as caught:
        server.respond(text.replace("NONCE", "abc" + NONCE).encode("latin-1"))
    assert (caught.value.message, caught.value.detail) == (message, detail)
    assert (caught.value.sqlstate, caught.value.fatal) == ("08P01", True)


@pytest.mark.parametrize("data", [b"n,,n=,r=", b"n,,n=,r=abc,x=1", b"n,,n=,r=abc,", b"n,,n=bar=2C,r=x,y="])
def test_first_messages_that_postgres_takes(data: bytes) -> None:
    assert challenge_of(server_for(PENCIL).respond(initial(data))).endswith("i=4096")


@DETERMINISTIC
@given(bodies=st.lists(st.binary(max_size=30), min_size=3, max_size=3))
def test_any_bytes_give_an_answer_or_a_failure(bodies: list[bytes]) -> None:
    for first in (bodies[0], initial(bodies[0]), initial(b"n,,n=,r=" + bodies[0]), initial(b"n,,n=,r=abc")):
        server = server_for(PENCIL)
        refused = None
        try:
            server.respond(first)
            server.respond(bodies[1])
        except WireFailure as failure:
            refused = failure
        assert not server.done
        assert refused is None or refused.fatal


# ---- verifiers ----


def test_a_verifier_is_read_and_written_as_postgres_keeps_it() -> None:
    verifier = Verifier.parse(STORED)
    assert verifier.format() == STORED
    assert verifier == Verifier.of_password("pencil", b64decode("XT8tHwgXY4pedC+pGKwsLw=="))
    assert is_verifier(STORED)
    assert not is_verifier("pencil")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        "SCRAM-SHA-256$",
        "md5a3556571e93b0d20722ba62be61e8c2d",
        STORED.replace("4096", "0"),
        STORED.replace("4096", "-1"),
        STORED.replace("4096", "٤"),
        STORED.replace("XT8tHwgXY4pedC+pGKwsLw==", ""),
        STORED.replace("XT8tHwgXY4pedC+pGKwsLw==", "!"),
        STORED[:-4],
        STORED + ":x",
        STORED.replace("hv0C", ""),
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    with pytest.raises(ValueError, match="verifier"):
        Verifier.parse(text)


@pytest.mark.parametrize("password", ["pencil", "\N{ROMAN NUMERAL NINE}", "pässword", "a\x07b", "\u0627\u0031"])
def test_passwords_are_prepared_or_taken_as_they_are(password: str) -> None:
    # scramp's client prepares as well; what SASLprep refuses (a control character, mixed directions) goes in raw.
    verifier = Verifier.of_password(password, b"0123456789abcdef")
    server = server_for(verifier)
    bare = "n=,r=abc"
    challenge = challenge_of(server.respond(initial(f"n,,{bare}".encode())))
    prepared = {"\N{ROMAN NUMERAL NINE}": "IX"}.get(password, password)
    server.respond(client_final(challenge, bare, prepared).encode())
    assert server.done


def test_too_short_a_salt_is_not_taken_for_a_bad_password() -> None:
    with pytest.raises(scramp.ScramException, match="salt"):
        Verifier.of_password("pencil", b"short")
    with pytest.raises(scramp.ScramException, match="must not be < 4096"):
        Verifier.of_password("a\x07b", b"0123456789abcdef", 1)


def test_secrets_are_not_shown() -> None:
    assert repr(PENCIL) == "Verifier(iterations=4096)"


@DETERMINISTIC
@given(body=st.binary(max_size=40))
def test_decode_sasl_initial(body: bytes) -> None:
    try:
        mechanism, data = decode_sasl_initial(body)
    except ProtocolViolation as violation:
        refused = violation
    else:
        assert mechanism + b"\0" + pack(">i", -1 if data is None else len(data)) + (data or b"") == body
        return
    assert refused.fatal


def test_what_is_too_long_for_a_password_is_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: whoever may send a password before any proof would keep all others waiting."""
    seen: list[int] = []

    def counted(password: str) -> str:
        seen.append(len(password))
        return prepared(password)

    monkeypatch.setattr("proxy.wire.scram.prepared", counted)
    verifier = Verifier.of_password("p\u00e9", b"0123456789abcdef")
    assert verifier.proves("pe\u0301")  # the other way to write it
    marks = "a" + "\u0301" * 16_000 + "\u0316" * 16_000
    for password in (marks, "x" * 5_000, marks[:300]):
        assert not verifier.proves(password)
        assert Verifier.of_password(password, b"0123456789abcdef").proves(password)
    assert seen == [2, 3]
