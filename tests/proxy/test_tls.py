"""What a certificate says of a client; the rest of TLS is tested with clients (tests/integration/test_tls.py)."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.tls import TlsLayer, end_point

FILES = Path(__file__).parents[1] / "support" / "tls"
Subject = list[list[tuple[str, str]]]

CN, OU = "commonName", "organizationalUnitName"


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ([], None),
        ([[(OU, "app")]], None),
        ([[(OU, "x")], [(CN, "app")]], "app"),
        ([[(CN, "app")], [(CN, "postgres")]], "app"),
        ([[(CN, "app"), (CN, "bob")]], "app"),
    ],
)
def test_of_several_names_the_first_counts_as_in_postgres(
    subject: list[list[tuple[str, str]]], name: str | None
) -> None:
    layer: Any = SimpleNamespace(_tls=SimpleNamespace(getpeercert=lambda: {"subject": subject}))
    assert TlsLayer.client_name.fget(layer) == name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("until", "name"), [("Jan  1 00:00:00 2024 GMT", None), ("Jan  1 00:00:00 2124 GMT", "app")])
def test_a_certificate_of_a_resumed_session_that_has_expired_is_none(until: str, name: str | None) -> None:
    shown = {"subject": [[(CN, "app")]], "notAfter": until}
    layer: Any = SimpleNamespace(_tls=SimpleNamespace(getpeercert=lambda: shown))
    assert TlsLayer.client_name.fget(layer) == name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "algorithm"), [("server", "sha256"), ("renewed", "sha384"), ("ed448", None)])
def test_what_channels_are_bound_by(name: str, algorithm: str | None) -> None:
    """By the hash of the certificate's signature; Ed448's has no length of its own (it was a traceback)."""
    certificate = ssl.PEM_cert_to_DER_cert((FILES / f"{name}.crt").read_text())
    expected = b"" if algorithm is None else hashlib.new(algorithm, certificate).digest()
    assert end_point(certificate) == expected
