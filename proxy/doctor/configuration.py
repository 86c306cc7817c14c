"""What can be said of a configuration alone, without a shard: ``pgchorus check``. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.doctor.finding import FILE, Command, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.config import Config, Mistake
    from proxy.doctor.finding import Finding

DECIDE_WAITS_S = 15.0  # for the fence: pgchorus.decide


def mistakes(found_in_file: Sequence[Mistake]) -> list[Finding]:
    """Return what makes a file useless as findings."""
    return [
        found(
            "config-mistake",
            "",
            (),
            f"{one.file}:{one.line}: {one.path}".rstrip(": "),
            one.wrong,
            Command(FILE, one.right),
        )
        for one in found_in_file
    ]


def look_at_configuration(config: Config) -> list[Finding]:
    """Return what a configuration that can be used should better say."""
    return [*_grace(config), *_logins(config)]


def _grace(config: Config) -> Iterator[Finding]:
    limits = config.limits
    needed = limits.commit_prepare_timeout_s + DECIDE_WAITS_S
    if limits.recovery_grace_s < needed:
        detail = f"{limits.recovery_grace_s:g} s, and a commit may take {needed:g} s until it is decided"
        edit = Command(FILE, f"limits.recovery.grace_s: {needed * 2:g}")
        yield found("config-grace-short", "", (), "limits.recovery.grace_s", detail, edit)


def _logins(config: Config) -> Iterator[Finding]:
    """Look at methods that trust the network, where others than this machine reach the port."""
    if _is_local(config.listen.host):
        return
    methods = [("auth.method", config.auth.method, "any", False)]
    methods += [
        (
            f"auth.rules.{rule.name}.method",
            rule.method,
            rule.connection,
            all(net.is_loopback for net in rule.networks) and bool(rule.networks),
        )
        for rule in config.auth.rules
    ]
    for path, method, connection, local in methods:
        if local:
            continue
        if method == "trust":
            edit = Command(FILE, f"{path}: scram-sha-256")
            yield found("config-trust-open", "", (), path, f"trust, and {config.listen} can be reached by others", edit)
        elif method in {"password", "md5"} and connection != "tls" and (config.tls is None or method == "password"):
            edit = Command(FILE, f"{path}: scram-sha-256")
            yield found("config-clear-passwords", "", (), path, f"{method} without TLS at {config.listen}", edit)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
