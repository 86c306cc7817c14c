"""Refusals: what the router will not do, why, and what to do instead.

Each refusal has a SQLSTATE, a stable id (for metrics, golden tests and the documentation), a message and a hint. Only
this file makes them up; planners name them.
"""

from __future__ import annotations

from typing import Final


class Refused(Exception):  # noqa: N818 - "Refused" is what happened; "RefusedError" says nothing more
    """A statement that cannot be seen to be exact.

    ``position`` counts characters of the statement's text from 1, as Postgres's own error positions do.
    """

    def __init__(  # noqa: PLR0913 - the fields of an ErrorResponse
        self,
        refusal: str,
        message: str,
        *,
        hint: str = "",
        detail: str = "",
        sqlstate: str = "0A000",
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
        self.hint = hint
        self.detail = detail
        self.sqlstate = sqlstate
        self.position = position


class SyntaxFailure(Exception):  # noqa: N818 - named for what the parser met
    """The parser could not read the text; a real shard gets the last word, by Parse only (never Execute)."""

    def __init__(self, message: str, position: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


_ROUTE_HINT = "Compare the sharding key of every sharded table with one value or with each other by =."

REFUSALS: dict[str, tuple[str, str]] = {
    # names and functions
    "own-schema": ("schema pgchorus belongs to the proxy", "Ask SHOW pgchorus.transaction or the console instead."),
    "undefined-table": (
        'relation "{name}" does not exist',
        "The configuration places this table, but no shard has it.",
    ),
    "unplaceable": (
        "{name} cannot be used over several shards",
        "Vouch for functions in the configuration, or query the tables.",
    ),
    "function": (
        "function {name}() cannot be called over several shards",
        "Vouch for it in the configuration (functions:).",
    ),
    "last-value": (
        "function {name}() cannot be called over several shards",
        "Take the number where it is made: INSERT ... RETURNING, or SELECT nextval(...) before. A vouch is no help.",
    ),
    "seed": (
        "function {name}() cannot be called over several shards",
        "Each shard has random numbers of its own: make repeatable ones in the client. A vouch is no help.",
    ),
    "function-mix": (
        "the functions of this statement cannot run on one shard",
        "Call them in statements of their own.",
    ),
    "setval-blind": (
        "nobody can see by what this statement sets a sequence, which could not be taken back",
        "Call setval in a SELECT of its own, or vouch for the function that does (functions:).",
    ),
    "function-home": ("a function of this statement runs on the home shard only", "Call it in a statement of its own."),
    "role-unknown": (
        "over several shards, it is not known which schemas the current role may use",
        "SET ROLE or RESET ROLE, or connect again.",
    ),
    "setting": ("{name} = {value} is not supported over several shards", "Leave the setting at its default."),
    "own-setting": ("set_config cannot set {name}, which is the proxy's own", "Use SET."),
    "setting-unheard": (
        "set_config inside this statement would set nothing that the session keeps, over several shards",
        "Call it in a SELECT of its own, or use SET.",
    ),
    "setting-hidden": (
        "this calls what may change settings of the session, on one shard alone",
        "Call that in a SELECT of its own before.",
    ),
    # reads
    "home-and-sharded": (
        "{table} lives on the home shard only and cannot be combined with sharded tables",
        "Make it a reference table, or query it on its own.",
    ),
    "cross-shard": ("the statement would combine rows of different shards", _ROUTE_HINT),
    "outer-join": ("an outer join keeps rows of {table} on every shard", _ROUTE_HINT),
    "subquery": ("a subquery reads rows of several shards", _ROUTE_HINT),
    "recursive": ("a recursive query over several shards is not supported", _ROUTE_HINT),
    "sample": ("TABLESAMPLE over several shards is not supported", "Name one key."),
    "replicated-subquery": (
        "a subquery over reference tables may differ from shard to shard here",
        "Leave out LIMIT, DISTINCT ON and functions that depend on the order of rows.",
    ),
    "rewrite": (
        "the statement is written in a way that cannot be split",
        "Write it as a plain SELECT without parentheses around it.",
    ),
    # gathered reads
    "gather-lock": (
        "rows cannot be locked by a query that combines rows of different shards",
        "Lock the rows by a query over one key, or by one whose tables are joined on their sharding keys.",
    ),
    "gather-function": (
        "function {name} cannot be called by a query that combines rows of different shards",
        "It reads tables. Join the tables in the query itself, or vouch for the function as pure.",
    ),
    "gather-relation": (
        "{table} cannot be combined with rows of several shards",
        "Query it in a statement of its own.",
    ),
    "gather-path": (
        "a search_path that puts pg_catalog behind other schemas is not supported here",
        "Leave pg_catalog out of search_path: it is searched first then.",
    ),
    "reference-lock": (
        "FOR UPDATE of the reference table {table} would lock one copy only here",
        "Lock its rows in a plain SELECT of their own (it needs a primary key); beside sharded ones name these in OF.",
    ),
    # writes
    "modifying-cte": ("a data-modifying WITH needs all its tables on one key", _ROUTE_HINT),
    "insert-no-key": (
        "INSERT into {table} gives no value for the sharding key {key}",
        "Give the key in the column list; a default that is computed is not known before the row is stored.",
    ),
    "insert-key": (
        "the value for the sharding key {key} is neither a constant nor a parameter",
        "Compute the key in the client.",
    ),
    "insert-select": (
        "INSERT ... SELECT would move rows between shards",
        "Select the sharding key itself from a table that is sharded like the target, or name one key.",
    ),
    "insert-mixed": ("INSERT of several rows with a subquery needs one key", "Insert one row at a time."),
    "sequence-default": (
        "column {column} of {table} takes its value from a sequence, and each shard has its own",
        "Give the value in the INSERT.",
    ),
    "too-deep": (
        "the statement is nested too deeply, or has too long a chain of operators",
        "Write values as a list (IN, ANY, VALUES), or in several statements.",
    ),
    "too-many-values": (
        "the statement has too many values from sequences and defaults",
        "Insert fewer rows at a time, or give the values.",
    ),
    "on-conflict": (
        "ON CONFLICT needs an arbiter that contains the sharding key {key}",
        "Name the conflict columns, the key among them.",
    ),
    "on-conflict-any": (
        "ON CONFLICT without a target needs the sharding key {key} in every unique constraint",
        "Name the conflict columns, the key among them.",
    ),
    "key-update": ("the sharding key {key} cannot be changed by UPDATE", "Delete the row and insert it again."),
    "key-update-off": (
        "UPDATE of a sharding key is not allowed in this session",
        "SET pgchorus.allow_key_update = on: rows are then moved, and a concurrent UPDATE finds them gone.",
    ),
    "merge": (
        "MERGE would join rows of different shards",
        "Take one table, view, VALUES or subquery as the source, or join the sharding keys in ON by =.",
    ),
    "merge-insert": (
        "MERGE could insert a row on the wrong shard",
        "Insert as the sharding key what follows from the source's columns, without functions that are volatile.",
    ),
    "reference-write": (
        "the statement could change the copies of the reference table {table} differently",
        "Write rows by VALUES, or by conditions over their own columns, constants and parameters.",
    ),
    "reference-clock": (
        "now() and its kin would differ from copy to copy of the reference table {table}",
        "Pass the time as a parameter.",
    ),
    "system-columns": ("system column {name} means something on one shard only", "Name one key."),
    "view-write": (
        "view {view} reads {table}, which does not live on the home shard alone",
        "Write to the table itself.",
    ),
    "view-target": (
        "view {view} cannot be written over several shards",
        "Write to the table itself, or make the view one of columns of one table, with conditions on them.",
    ),
    "where-current-of": (
        "WHERE CURRENT OF needs a cursor that one shard has, and a statement without other tables",
        "Name the row by its key.",
    ),
    "function-local": (
        "a function that is vouched for as local runs with one sharding key only",
        "Compare the sharding key with one value.",
    ),
    "copy-file": (
        "COPY with files or programs of the server is not supported over several shards",
        "Use STDIN or STDOUT.",
    ),
    "copy-option": ("COPY option {name} is not supported over several shards", "Leave it out."),
    "copy-query": (
        "COPY of the rows that a statement has changed needs one sharding key",
        "Compare the sharding key with one value, or use RETURNING without COPY.",
    ),
    # whole tables and the session
    "two-phase": ("{name} is not supported over several shards", "COMMIT is atomic over all shards already."),
    "own-gid": (
        "prepared transactions whose names begin with pgchorus: belong to the proxy",
        "Choose another name. Recovery finishes those; the console's IN_DOUBT shows them.",
    ),
    "transaction-snapshot": ("SET TRANSACTION SNAPSHOT is not supported over several shards", ""),
    "explain-execute": (
        "EXPLAIN EXECUTE is supported for statements that one shard runs",
        "Name one key, or EXPLAIN the statement itself.",
    ),
    "explain-analyze": (
        "EXPLAIN ANALYZE is supported for statements that one shard runs",
        "Leave out ANALYZE, or name one key.",
    ),
    "explain-parameters": (
        "EXPLAIN over several shards takes no parameters",
        "Write the values into the statement, or use EXPLAIN (ROUTE).",
    ),
    "explain-format": ("EXPLAIN over several shards has no format {name}", "Use text, json or yaml."),
    "hint": (
        "the hint {name} is not understood",
        "Write /* pgchorus: shard=NAME */ with the name of a shard: {shards}.",
    ),
    "hint-statement": (
        "a hint cannot choose the shard of this statement",
        "Hints are for SELECT, INSERT, UPDATE, DELETE and MERGE.",
    ),
    "hint-table": (
        "a hint cannot send this statement to shard {shard}: {table} lives on the home shard only",
        "Leave out the hint.",
    ),
    "hint-reference": (
        "a hint cannot send this statement to one shard: it would change one copy of the reference table {table}",
        "Leave out the hint.",
    ),
    "statement-trigger": (
        "trigger {name} would fire on every shard that writes for this statement, and see that shard's rows",
        "Write one key at a time, or make it a trigger FOR EACH ROW.",
    ),
    "cross-shard-off": (
        "the statement runs on several shards ({shards}), and pgchorus.cross_shard is off",
        "Name one key, or SET pgchorus.cross_shard = on.",
    ),
    "declare": (
        "this query cannot be read by a cursor: it would have to be gathered from several shards",
        "Name one key, read without a cursor, or fetch by Execute messages with a row limit.",
    ),
    "declare-scroll": (
        "a SCROLL cursor over several shards is not supported",
        "Declare it without SCROLL and read forwards, or name one key.",
    ),
    "declare-hold": (
        "a WITH HOLD cursor over several shards is not supported",
        "Read it inside the transaction, name one key, or keep the rows in a temporary table.",
    ),
    "declare-lock": (
        "FOR UPDATE in a cursor over several shards is not supported",
        "Lock the rows in a SELECT without a cursor, or name one key.",
    ),
    "mixed-tables": (
        "tables of the home shard and tables of all shards cannot be named in one statement",
        "Use a statement for each kind.",
    ),
    # definitions
    "key-missing": ("{table} has no column {key}, its sharding key", "Add the column, or change the configuration."),
    "key-type": (
        "column {key} of {table} cannot be a sharding key",
        "Use int2, int4, int8, text, varchar, char(n) or uuid with a deterministic collation, not generated.",
    ),
    "key-change": ("the sharding key {key} of {table} cannot be renamed, dropped or given another type", ""),
    "placed-name": (
        "{table} is placed by the configuration and keeps its name",
        "Change the configuration while the table is empty or absent.",
    ),
    "unique": (
        "a unique constraint of {table} must contain the sharding key {key}, as it is",
        "Add the key to the constraint: a shard sees its own rows only.",
    ),
    "foreign-key": (
        "a foreign key of {table} to {target} cannot be enforced by a shard",
        "Refer to a reference table, or join the sharding keys of both tables (without SET NULL or SET DEFAULT).",
    ),
    "parent-placement": ("{table} and its relative live in different ways", "Place parent and child alike."),
    "table-of-type": ("CREATE TABLE OF a type is not supported for sharded tables", "Write the columns."),
    "detach": (
        "{child} would be a table by itself, and the configuration does not place it",
        "Write `{child}: {how}` under `tables` of the database, and RELOAD: no rows move. DROP TABLE needs no DETACH.",
    ),
    "detach-concurrently": (
        "a partition is detached from all shards in one transaction",
        "DETACH PARTITION without CONCURRENTLY waits for transactions that use the table, and holds others back.",
    ),
    "alter-table": ("ALTER TABLE ... {command} is not supported for {table}", ""),
    "definition-clock": (
        "now() and its kin would differ from shard to shard in the rows of {table}",
        "Write the time as a constant, and set the default afterwards.",
    ),
    "definition-value": (
        "the rows of {table} would get values that are each shard's own",
        "Write a constant, or UPDATE the rows afterwards.",
    ),
    "partition-hash": (
        "rows of {table} would be in other partitions on each shard: the hash of {column} is each server's own",
        "That of an enum or an object is made of its number. PARTITION BY LIST, or by the hash of another column.",
    ),
    "add-column": (
        "rows of {table} that exist would get {column} from a sequence or function of each shard",
        "Add the column without a default, and set the default afterwards.",
    ),
    "trigger-key": (
        "a trigger before the write cannot give {key}, the sharding key of {table}, another value",
        "The row is on the shard of the key that the statement has. Compute the key in the statement or in a default.",
    ),
    "slot-check": ("the constraint pgchorus_slot belongs to the proxy", ""),
    "subquery-locks": (
        "a subquery that locks rows would lock them here although one Postgres might not run it",
        "Put it into WITH or FROM, or make it a condition of WHERE by itself.",
    ),
    "temporary-hides": (
        "over several shards a temporary relation cannot have the name of {table}",
        "Choose another name; where the lasting one came later, say which: public.name, DROP TABLE pg_temp.name.",
    ),
    "temporary-object": (
        "{name} in pg_temp is not supported over several shards",
        "Make it in another schema, or use temporary tables and views.",
    ),
    # the rest
    "unknown-statement": ("{name} is not supported over several shards", ""),
    "unknown-node": ("{name} is not supported over several shards", ""),
    "too-complex": ("the statement has too many tables to see through", "Split the statement."),
}
"""Every refusal by its stable id: message and hint, with ``{words}`` that the planner fills in."""

GATHERED: dict[str, tuple[str, str]] = {
    "volatile-once": (
        "one Postgres calls a volatile function here once for all rows, and every shard would call it for its own",
        "Call it in a statement of its own first, or for each row.",
    ),
    "distinct": (
        "DISTINCT over several shards needs the sharding key among its columns",
        "Add the key, or group by plain columns.",
    ),
    "window": ("a window function over several shards needs PARTITION BY the sharding key", _ROUTE_HINT),
    "having": (
        "HAVING over groups that span shards is not supported",
        "Group by the sharding key, or filter in the client.",
    ),
    "aggregate": (
        "this combination of aggregates over several shards is not supported",
        "Use count, sum, min, max, avg, bool_and or bool_or of plain expressions, or group by the sharding key.",
    ),
    "aggregate-distinct": (
        "an aggregate of DISTINCT values over several shards is not supported",
        "Group by the sharding key.",
    ),
    "group-by": (
        "groups that span shards need plain columns of types whose equal values have equal bytes",
        "Group by the sharding key, or by columns of other types.",
    ),
    "grouping-sets": (
        "GROUPING SETS, ROLLUP and CUBE over several shards are not supported",
        "Group by the sharding key.",
    ),
    "order-by": (
        "rows of several shards cannot be merged in this order",
        "Order by columns of numeric, date, uuid and similar types, or of text in the C collation.",
    ),
    "limit": ("this form of LIMIT is not supported over several shards", "Use a number or a parameter."),
    "set-operation": (
        "this set operation over several shards is not supported",
        "Use UNION ALL of plain queries, or select the sharding key in the same place of all of them.",
    ),
}
"""Why a SELECT's rows are gathered instead of combined, in the same form; never what a client is told of it."""


_DOCTOR: Final = "The schemas differ, or types were created on the shards one by one; see pgchorus doctor."

RUNNING: dict[str, tuple[str, str]] = {
    "subquery-failed": (
        "a subquery that is asked first fails, and one Postgres might not have run it",
        "Find out what is wrong with the subquery by itself.",
    ),
    "clock-word": (
        "{value} would be read off the clock by each shard for itself",
        "Write the date or time, or use now() and CURRENT_DATE, which are one value for all shards.",
    ),
    "replica-moment": (
        "one moment of several shards cannot be read from replicas",
        "With SET pgchorus.read_consistency = shard each shard is read for itself, from replicas as well.",
    ),
    "create-as": (
        "{table} cannot be created from this query",
        "Create the table first and INSERT ... SELECT into it.",
    ),
    "view-owner": (
        "materialized view {view} can be refreshed over several shards only by a role that may become its owner",
        "Refresh it as its owner, or GRANT the owner's role.",
    ),
    "view-code": (
        "materialized view {view} can be filled over several shards only by a client that has logged in as its owner",
        "Connect as the owner.",
    ),
    "view-rows": (
        "materialized view {view} cannot be filled from its query",
        "Use a table: CREATE TABLE AS, and INSERT ... SELECT to renew it.",
    ),
    "audit-touched": (
        "what this statement runs has touched {table}, of which the home shard has only a part",
        "It ran there because nobody could see what it touches. Use a function with a vouch, or the tables themselves.",
    ),
    "audit-copy": (
        "what this statement runs has changed one copy of the reference table {table}",
        "It ran on the home shard because nobody could see what it writes. Write to the table in a statement.",
    ),
    "audit-session": (
        "what this statement runs has changed {what} of the session, on the home shard alone",
        "Do that by a statement of its own: SET, PREPARE, DECLARE.",
    ),
    "audit-definition": (
        "what this statement runs has changed definitions, on the home shard alone",
        "Change definitions by statements of their own: they go to every shard that needs them.",
    ),
    "audit-end": (
        "COMMIT and ROLLBACK inside of a statement (DO) are not supported over several shards",
        "Leave them to the client.",
    ),
    "audit-blind": (
        "nobody could tell afterwards what this statement touches: {reason}",
        "Run it in a transaction of its own.",
    ),
    "home-alone": (
        "this needs something that only the home shard has, and every shard would have to have it",
        "Use types, functions and views of reference tables alone; pgchorus doctor says where shards differ.",
    ),
    "domain-check": (
        "a domain's check of this value reads rows of several shards, of which one alone has been asked",
        "Check the value by a query of its own.",
    ),
    "key-form": (
        "cannot tell the shard of this sharding key: {reason}",
        "Write the key in its plain form (1200, not 0x4B0), or pass it as a binary parameter.",
    ),
    "key-cast": ("cannot tell the shard of a sharding key: {reason}", "Cast the key to {type} in the query."),
    "different-columns": ("shards {one} and {other} would return different columns", _DOCTOR),
    "gather-types": (
        "the statement cannot be run over rows that were gathered from several shards",
        "Rows as a whole (a table's name as a value) are of another type there: name their columns.",
    ),
    "parameter-type": (
        'shard "{shard}" does not have the type of a parameter (OID {oid} on the home shard)',
        "Create the type through the proxy, or send the parameter as text with its type left open.",
    ),
    "computed-type": (
        "a computed default of a user-defined type is not supported over several shards",
        "Give the value in the INSERT.",
    ),
    "serializable": (
        "a SERIALIZABLE transaction cannot use more than one shard",
        "Use REPEATABLE READ, or keep the transaction to rows of one shard.",
    ),
    "not-prepared": (
        "shards {names} both hold what cannot be prepared, so they cannot commit together",
        "Use temporary objects, NOTIFY and WITH HOLD cursors on one shard only in a transaction.",
    ),
    "function-message": (
        "function calls by protocol message are not supported over several shards",
        "Call the function by SELECT.",
    ),
    "literals-read": (
        "this statement was prepared when other settings said how its literals are read, which is not known any more",
        "Prepare it again, or set DateStyle, TimeZone and the like before statements are prepared.",
    ),
    "explain-execute-message": (
        "EXPLAIN EXECUTE over several shards is supported as a simple query only",
        "EXPLAIN the statement itself.",
    ),
    "cursor-query": (
        "this query cannot be read by a cursor over several shards",
        "Read without a cursor, or fetch the query's own portal by Execute messages with a row limit.",
    ),
    "cursor-direction": (
        "a cursor over several shards can only go forward",
        "Use FETCH NEXT, FETCH FORWARD or FETCH ALL; a query that names one key has a cursor that can do more.",
    ),
    "cursor-fetch": (
        'cursor "{name}" reads several shards, which FETCH and MOVE cannot in this version',
        "Fetch by Execute messages with a row limit.",
    ),
    "cursor-formats": (
        "a cursor over several shards keeps the result formats of its first FETCH",
        "Ask for the same formats in every FETCH.",
    ),
    "session-start": (
        "a session over several shards cannot begin with {name} = {value}",
        "It comes from the connection's options, or from ALTER ROLE or DATABASE ... SET.",
    ),
    "client-encoding-shards": (
        "client_encoding {value} is not supported over several shards: not every value comes back from it as it was",
        "Use UTF8.",
    ),
    "encoding-open": (
        "client_encoding cannot change while a cursor or portal is open over several shards",
        "Close it first, or end the transaction.",
    ),
    "encoding-path": (
        "over several shards, a search_path with other letters than ASCII is not read in client_encoding {encoding}",
        "Qualify names, or use UTF8.",
    ),
    "strings-changed": (
        "a function has changed standard_conforming_strings, which must be on over several shards",
        "Leave the setting alone; the session ends.",
    ),
}
"""What turns out only when a statement runs, or in the session around it, in the same form."""

ANY_SHARDS: dict[str, tuple[str, str]] = {
    "client-encoding": ("client_encoding {value} is not supported: not every text is read alike", "Use UTF8."),
    "encoding-changed": (
        "a function has changed client_encoding, which is not supported through the proxy",
        "Leave the setting alone; the session ends.",
    ),
    "encoding-config": (
        "client_encoding cannot be changed by a set_config inside this statement",
        "Use SET client_encoding.",
    ),
    "encoding-portal": (
        "names of portals must be ASCII in a client_encoding other than UTF8",
        "Use other names, or UTF8.",
    ),
    "encoding-text": ("this text cannot be read safely in client_encoding {encoding}", "Use UTF8."),
    "session-view": (
        "{name} cannot be read in this statement through the proxy",
        "Read it in a SELECT, without ONLY, FOR UPDATE and the schema before its columns.",
    ),
    "settings-update": ("pg_settings cannot be updated through the proxy", "Use SET."),
    "sequence-forgotten": (
        "the sequence values of this session are not known any more",
        "They are kept from now on. Ask in the transaction of the INSERT, or use INSERT ... RETURNING.",
    ),
    "replica-transaction": (
        "this transaction cannot read from replicas",
        "SET pgchorus.read_from = prefer_replica reads from the primary then.",
    ),
    "replica-state": (
        "a session cannot keep {what} on a replica",
        "SET pgchorus.read_from = primary for what calls for that.",
    ),
    "replication": ("replication connections are not supported through the proxy", "Connect to the server itself."),
}
"""What is refused over one shard as well, in the same form."""


def refusal(
    refused: str, /, *, detail: str = "", position: int | None = None, sqlstate: str = "0A000", **words: str
) -> Refused:
    """Make a refusal by its id."""
    message, hint = next(table[refused] for table in (REFUSALS, RUNNING, ANY_SHARDS, GATHERED) if refused in table)
    return Refused(
        refused, message.format(**words), hint=hint.format(**words), detail=detail, sqlstate=sqlstate, position=position
    )
