"""With what sessions of a role begin, as a server says it: settings, isolation, encoding, timeouts.

Decides what is asked. Left to others: when, and what is kept of it (proxy.database).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proxy.session import clocks
from proxy.settings import READING


class RoleStart(NamedTuple):
    """What sessions of a role begin with: the ParameterStatus values, and the isolation level of their transactions.

    ``encoding``: the client_encoding that the role or the database has of its own; '' for none. ``acting``: as whom, as
    there may be a setting for that.
    """

    parameters: dict[str, str]
    isolation: str
    encoding: str
    acting: str
    timeouts: clocks.Timeouts


DEFAULTS: Final = """
    SELECT coalesce(md5(string_agg(s::text, '|' ORDER BY setdatabase, setrole)), '')
    FROM pg_catalog.pg_db_role_setting s
    WHERE setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
"""


#: Roles that may log in here, and what they are: one that is dropped and made again is another, a password's time ends.
#: And a word for all of that: there may be many.
LOGINS: Final = """
    SELECT r.rolname::text,
           pg_catalog.concat_ws(' ', r.oid, r.rolvaliduntil, r.rolvaliduntil < pg_catalog.now()) AS known
    FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
    WHERE r.rolcanlogin AND d.datname = pg_catalog.current_database() AND d.datallowconn
          AND pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')
"""
LOGINS_DIGEST: Final = """
    SELECT pg_catalog.concat_ws(' ', d.datallowconn, d.datacl, (
               SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, rolname, rolsuper, rolinherit,
                   rolcanlogin, rolvaliduntil, rolvaliduntil < pg_catalog.now()), ',' ORDER BY oid))
               FROM pg_catalog.pg_roles), (
               SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', roleid, member, inherit_option),
                   ',' ORDER BY oid))
               FROM pg_catalog.pg_auth_members))
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""


# The client_encoding of ALTER ROLE or DATABASE ... SET, in the order in which Postgres looks (process_settings): links
# do not show it, because asyncpg asks for UTF8 when it connects.
_ENCODING: Final = """
    (SELECT split_part(c, '=', 2) FROM pg_catalog.pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c
     WHERE c LIKE 'client\\_encoding=%'
           AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
           AND setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user))
     ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1)
"""
# No log-in of Postgres's is under the statement_timeout that a role or a database has by default. In one message with
# what is asked, and so in its transaction.
WITHOUT_TIMEOUT: Final = "SET LOCAL statement_timeout = 0; "
# The settings that decide what a session of a role may do, in the order of RoleStart and of proxy.settings.READING.
BEGINNING: Final = f"SELECT {_ENCODING}, current_user, " + ", ".join(
    f"pg_catalog.current_setting('{name}', true)" for name in ("default_transaction_isolation", *READING, *clocks.NAMES)
)
