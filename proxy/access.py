"""Who may come in, and how they prove who they are: the rules of ``auth`` in order, in the spirit of pg_hba.conf.

Pure: a connection's properties in, a method out. The first rule that fits decides; whom no rule names proves itself by
``auth.method``.

https://www.postgresql.org/docs/18/auth-pg-hba-conf.html
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS = ("scram-sha-256", "md5", "password", "cert", "trust", "reject")
CONNECTIONS = ("any", "tls", "plain")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """Empty tuples fit everything. ``connection`` is one of CONNECTIONS, ``method`` one of METHODS."""

    name: str
    method: str
    connection: str = "any"
    networks: tuple[Network, ...] = ()
    databases: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def fits(self, client: Client) -> bool:
        """Whether the rule is about this client."""
        return (
            self.connection in ("any", "tls" if client.tls else "plain")
            and (not self.databases or client.database in self.databases)
            and (not self.users or client.user in self.users)
            and (not self.networks or client.is_in(self.networks))
        )


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of a client before it proves anything. ``host`` is '' for a socket without an address."""

    host: str
    database: str
    user: str
    tls: bool

    def is_in(self, networks: Sequence[Network]) -> bool:
        """Whether its address lies in one of some networks; an IPv4 address mapped into IPv6 counts as what it is."""
        if not self.host:
            return False
        address = ip_address(self.host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in networks)

    def __str__(self) -> str:
        encryption = "SSL encryption" if self.tls else "no encryption"
        return f'host "{self.host or "[local]"}", user "{self.user}", database "{self.database}", {encryption}'


def method_for(client: Client, rules: Sequence[Rule], default: str) -> str:
    """Return the method of the first rule that fits, or the default."""
    return next((rule.method for rule in rules if rule.fits(client)), default)
