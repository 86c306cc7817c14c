"""Roles: what the proxy's own may do, and whether the configured users are the same, and welcome, on every shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.doctor.finding import HAND, Command
from proxy.doctor.look import words
from proxy.shards.errors import ShardError
from proxy.shards.link import open_link
from router.own_schema import quote_identifier

if TYPE_CHECKING:
    from proxy.doctor.look import Look


async def look_at_roles(look: Look) -> None:
    """The DSN's role, then each configured user: there, may log in, may connect, the same everywhere."""
    for shard in look.up:
        facts = look.facts[shard]
        if not facts["superuser"]:
            raised = Command(
                HAND, f"on {look.name(shard)}, as a superuser: ALTER ROLE {quote_identifier(facts['role'])} SUPERUSER"
            )
            look.add("control-role-weak", shard, facts["role"], "is no superuser", raised)
        for user, of_user in (facts["users"] or {}).items():
            _user(look, shard, user, of_user)
    if look.home in look.facts:
        for user, at_home in (look.facts[look.home]["users"] or {}).items():
            for shard in look.up:
                here = look.facts[shard]["users"][user]
                if here is not None and at_home is not None:
                    _compare(look, shard, user, here, at_home)


def _user(look: Look, shard: int, user: str, of_user: dict[str, Any] | None) -> None:
    name = quote_identifier(user)
    database = quote_identifier(look.facts[shard]["database"])
    if of_user is None:
        password = Command(HAND, f"\\password {name}    -- in psql, if the shard asks for one")
        look.add("user-missing", shard, user, "is no role", look.sql(shard, f"CREATE ROLE {name} LOGIN"), password)
        return
    if not of_user["login"]:
        look.add("user-no-login", shard, user, "may not log in", look.sql(shard, f"ALTER ROLE {name} LOGIN"))
    if not of_user["connect"]:
        grant = look.sql(shard, f"GRANT CONNECT ON DATABASE {database} TO {name}")
        look.add("user-no-connect", shard, user, "may not connect to the database", grant)
    if look.many and shard == look.home and not of_user["temporary"]:
        grant = look.sql(shard, f"GRANT TEMPORARY ON DATABASE {database} TO {name}")
        look.add("user-no-temporary", shard, user, "may make no temporary tables", grant)


def _compare(look: Look, shard: int, user: str, here: dict[str, Any], home: dict[str, Any]) -> None:
    name = quote_identifier(user)
    differences, commands = [], []
    for attribute, value in home["attributes"].items():
        if here["attributes"][attribute] != value:
            word = attribute if value else f"NO{attribute}"
            differences.append(f"{word} at home")
            commands.append(look.sql(shard, f"ALTER ROLE {name} {word}"))
    for group in sorted({*here["member_of"]} ^ {*home["member_of"]}):
        at_home = group in home["member_of"]
        differences.append(f"{'a member' if at_home else 'no member'} of {group} at home")
        verb, to = ("GRANT", "TO") if at_home else ("REVOKE", "FROM")
        commands.append(look.sql(shard, f"{verb} {quote_identifier(group)} {to} {name}"))
    if differences:
        look.add("roles-differ", shard, user, "; ".join(differences), *commands)


async def look_at_logins(look: Look) -> None:
    """Log in to every shard as every configured user, as the proxy will."""
    auth = look.config.auth
    for shard in look.up:
        for user, of_user in (look.facts[shard]["users"] or {}).items():
            if of_user is None or not of_user["login"] or not of_user["connect"]:
                continue  # said already
            try:
                link = await open_link(
                    look.control.endpoints[shard],
                    role=user,
                    password=auth.passwords.get(user),
                    connect_timeout_s=look.config.limits.pool_connect_timeout_s,
                )
            except ShardError as error:
                advice = Command(
                    HAND,
                    f"\\password {quote_identifier(user)}    -- in psql on {look.name(shard)}: the configuration's",
                )
                look.add("user-login-fails", shard, user, words(error), advice)
            else:
                await link.close()
