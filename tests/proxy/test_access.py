"""Rules in order: the first that fits decides."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.access import Client, Rule, method_for

RULES = (
    Rule("banned", "reject", users=("mallory",)),
    Rule("office", "cert", connection="tls", networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    Rule("here", "trust", connection="plain", networks=(ip_network("127.0.0.1"),), databases=("shop", "stock")),
)


@pytest.mark.parametrize(
    ("client", "method"),
    [
        (Client("10.1.2.3", "shop", "app", tls=True), "cert"),
        (Client("10.1.2.3", "shop", "app", tls=False), "scram-sha-256"),
        (Client("10.1.2.3", "shop", "mallory", tls=True), "reject"),
        (Client("fd00::1", "shop", "app", tls=True), "cert"),
        (Client("::ffff:10.1.2.3", "shop", "app", tls=True), "cert"),
        (Client("fe80::1%eth0", "shop", "app", tls=True), "scram-sha-256"),
        (Client("127.0.0.1", "stock", "app", tls=False), "trust"),
        (Client("127.0.0.1", "other", "app", tls=False), "scram-sha-256"),
        (Client("127.0.0.1", "stock", "app", tls=True), "scram-sha-256"),
        (Client("", "stock", "app", tls=False), "scram-sha-256"),
    ],
)
def test_the_first_rule_that_fits(client: Client, method: str) -> None:
    assert method_for(client, RULES, "scram-sha-256") == method


def test_a_client_is_shown_as_postgres_shows_it() -> None:
    assert str(Client("::1", "shop", "app", tls=True)) == 'host "::1", user "app", database "shop", SSL encryption'
