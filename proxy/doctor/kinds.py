"""Every kind of finding: its name, how bad it is, what it breaks and what mends it. The page and the output go by it.

A name stays what it is: scripts and people go by it. Decides no text about a particular shard: that is the look's.
"""

from __future__ import annotations

from typing import Final

from proxy.doctor.kind import ERROR, NOTE, WARNING, Area, Kind
from proxy.doctor.kinds_outside import CONFIGURATION, HOSTS, RIGHTS, SERVERS, SETTINGS

_PLACEMENTS: Final = Area(
    "Placements",
    (
        Kind(
            "not-installed",
            ERROR,
            "a shard has no schema pgchorus",
            "nothing can be committed there with other shards",
            "`pgchorus init` (`serve` does it as well)",
        ),
        Kind(
            "own-schema-damaged",
            ERROR,
            "something is missing in the schema pgchorus, or clients may not use it",
            "commits, DDL or the slots' CHECKs fail",
            "`pgchorus init`",
        ),
        Kind(
            "ddl-unnoticed",
            WARNING,
            "the event triggers that notice DDL are gone or disabled",
            "after DDL behind the proxies' back they plan by an old catalog",
            "`pgchorus init`, or `ALTER EVENT TRIGGER ... ENABLE`",
        ),
        Kind(
            "foreign-cluster",
            ERROR,
            "a shard belongs to another cluster",
            "two clusters would write the same rows: `serve` refuses to start",
            "the right DSN, or `cluster` in the configuration",
        ),
        Kind(
            "shards-mixed-up",
            ERROR,
            "a shard says that it is another one",
            "rows would be looked for on the wrong shard: `serve` refuses to start",
            "exchange the DSNs",
        ),
        Kind(
            "layout-differs",
            ERROR,
            "a shard knows other shards, another home or another number of slots",
            "rows would be looked for on the wrong shard: `serve` refuses to start",
            "the configuration as it was; or, with empty tables, `pgchorus init`",
        ),
        Kind(
            "placement-differs",
            ERROR,
            "a table is placed otherwise than in the configuration, or on no other shard so",
            "`serve` refuses to start",
            "`pgchorus init`, which refuses where rows would have to move",
        ),
        Kind(
            "placement-contradicts",
            ERROR,
            "a table is placed otherwise than what it belongs to",
            "statements that use it are refused",
            "place a partition or an heir as its parent, and tables only",
        ),
        Kind(
            "epochs-differ",
            ERROR,
            "the shards have different versions of the placement",
            "no proxy can commit over several shards (PGC03)",
            "`pgchorus init`",
        ),
        Kind(
            "table-missing",
            ERROR,
            "a placed table is on some shards only",
            "statements that reach the others fail: `serve` refuses to start",
            "its definition, from a shard that has it",
        ),
        Kind(
            "table-not-there",
            NOTE,
            "a table is placed and nowhere",
            "nothing: it may come yet",
            "CREATE TABLE, by any proxy; or a line less in the configuration",
        ),
        Kind(
            "key-unfit",
            ERROR,
            "a sharding key is missing, or of a type that is none",
            "`serve` refuses to start",
            "another key in the configuration, or another type of the column",
        ),
        Kind(
            "table-not-placed",
            WARNING,
            "a table that the configuration does not place is on other shards than home",
            "clients see the home shard's alone: rows elsewhere are never read",
            "place it, or dump and drop it where it does not belong",
        ),
    ),
)
_SCHEMA: Final = Area(
    "Schemas that have drifted apart",
    (
        *(
            Kind(f"drift-{name}", severity, what, breaks, mend)
            for name, severity, what, breaks, mend in (
                ("schema", ERROR, "a schema", "DDL and names in it fail on a shard", "`CREATE SCHEMA`"),
                (
                    "extension",
                    ERROR,
                    "an extension",
                    "its functions and types fail or differ on a shard",
                    "`CREATE EXTENSION`, `ALTER EXTENSION ... UPDATE`",
                ),
                (
                    "type",
                    ERROR,
                    "an enum, domain, range or composite type",
                    "values that one shard has are errors on another, or sort differently",
                    "`ALTER TYPE`, `CREATE TYPE`",
                ),
                (
                    "function",
                    ERROR,
                    "a function or procedure",
                    "the same call gives other answers on each shard",
                    "`CREATE OR REPLACE FUNCTION` as on the home shard",
                ),
                (
                    "table",
                    ERROR,
                    "a table's kind, owner, row security, or what it inherits from",
                    "rights, policies or rows depend on the shard",
                    "`ALTER TABLE` as on the home shard",
                ),
                (
                    "column",
                    ERROR,
                    "a column: its type, default, NOT NULL, collation, or that it is there",
                    "statements fail on a shard, or answers differ",
                    "`ALTER TABLE` as on the home shard",
                ),
                (
                    "column-order",
                    ERROR,
                    "the order of columns",
                    "INSERT and COPY without a list of columns, and SELECT *, mix columns up",
                    "the table made anew in the right order",
                ),
                (
                    "constraint",
                    ERROR,
                    "a constraint",
                    "what one shard refuses another takes",
                    "`ALTER TABLE` as on the home shard",
                ),
                (
                    "index",
                    WARNING,
                    "an index",
                    "the same statement is slow on one shard; a unique one is a constraint as well",
                    "`CREATE INDEX CONCURRENTLY` as on the home shard",
                ),
                (
                    "view",
                    ERROR,
                    "a view",
                    "answers depend on the shard",
                    "`CREATE OR REPLACE VIEW` as on the home shard",
                ),
                (
                    "trigger",
                    ERROR,
                    "a trigger or rule",
                    "a write does different things on each shard",
                    "`CREATE TRIGGER` as on the home shard",
                ),
                (
                    "policy",
                    ERROR,
                    "a policy",
                    "a role sees rows on one shard that it may not see on another",
                    "`CREATE POLICY` as on the home shard",
                ),
                (
                    "sequence",
                    WARNING,
                    "a sequence",
                    "DDL and defaults that name it fail on a shard",
                    "`CREATE SEQUENCE` as on the home shard",
                ),
                (
                    "rights",
                    ERROR,
                    "the rights on a table, view, function or schema",
                    "a statement is refused on some shards only",
                    "`GRANT` and `REVOKE` as on the home shard",
                ),
            )
        ),
        Kind(
            "index-invalid",
            WARNING,
            "an index was not finished (CREATE INDEX CONCURRENTLY that failed)",
            "it costs each write and helps no read; a unique one keeps nothing unique",
            "`REINDEX INDEX CONCURRENTLY`",
        ),
        Kind(
            "type-oids-differ",
            NOTE,
            "types have other OIDs than at home",
            "the proxy translates them, which costs a little; COPY in binary form does not inside arrays and rows",
            "nothing; a shard that is made by `pg_upgrade` or from a copy of home has the same",
        ),
        Kind(
            "unique-not-enforced",
            ERROR,
            "a unique or exclusion constraint does not contain the sharding key",
            "each shard looks at its own rows only: the same value may be there twice; the table cannot be written",
            "the constraint with the key in it",
        ),
        Kind(
            "foreign-key-not-enforced",
            ERROR,
            "a foreign key leads to rows that may be on another shard",
            "no shard can check it; the table cannot be written",
            "drop it, or refer to a reference table or by the sharding key",
        ),
    ),
)
_ROWS: Final = Area(
    "Rows",
    (
        Kind(
            "slot-check-missing",
            ERROR,
            "a sharded table has no CHECK that its rows belong on the shard, or another one",
            "nothing keeps rows from the wrong shard",
            "`CALL pgchorus.guard(...)`, which is what `pgchorus init` does",
        ),
        Kind(
            "slot-check-disabled",
            ERROR,
            "the CHECK on a table's slots is NOT ENFORCED",
            "nothing keeps rows from the wrong shard",
            "drop it, and `CALL pgchorus.guard(...)`",
        ),
        Kind(
            "slot-check-not-valid",
            WARNING,
            "the CHECK on a table's slots was never validated",
            "rows from before may be on the wrong shard",
            "`ALTER TABLE ... VALIDATE CONSTRAINT pgchorus_slot`",
        ),
        Kind(
            "rows-misplaced",
            ERROR,
            "rows are on the wrong shard",
            "statements by key do not find them; scans do",
            "a psql script that moves them, all or none of each table and pair of shards",
        ),
        Kind(
            "hash-differs",
            ERROR,
            "a server hashes keys otherwise than pgchorus does",
            "rows are looked for on the wrong shard",
            "nothing: pgchorus cannot work with this server (another architecture?)",
        ),
        Kind(
            "reference-differs",
            ERROR,
            "a shard's copy of a reference table is not as the home shard's",
            "answers depend on the shard",
            "a psql script that copies the home shard's rows",
        ),
        Kind(
            "sequence-behind",
            ERROR,
            "a sequence will give numbers that its column has already",
            "INSERTs fail as duplicates, or make them",
            "`setval`",
        ),
        Kind(
            "sequence-copy-alive",
            WARNING,
            "a sequence's copy away from home gives numbers",
            "what takes them there (triggers, COPY by hand) takes numbers twice",
            "`setval` to its end, so that it raises",
        ),
    ),
)
_TRANSACTIONS: Final = Area(
    "Transactions",
    (
        Kind(
            "prepared-stays",
            ERROR,
            "a transaction of ours is prepared and was not finished",
            "its rows are locked, and are not seen where they were committed",
            "`pgchorus recover`, which says what is in the way",
        ),
        Kind(
            "prepared-for-a-person",
            ERROR,
            "a transaction of ours is prepared, and nobody here may decide about it",
            "its rows are locked",
            "`ROLLBACK PREPARED`, or `COMMIT PREPARED` if it was committed elsewhere (docs/operations.md)",
        ),
        Kind(
            "prepared-foreign",
            WARNING,
            "a transaction is prepared that is not ours",
            "it holds locks and keeps rows from being vacuumed",
            "`ROLLBACK PREPARED`, if its owner does not finish it",
        ),
        Kind(
            "commit-torn",
            ERROR,
            "a transaction was decided, and a shard has not committed its part",
            "it is committed on some shards only: the shard was restored, failed over, or somebody rolled it back",
            "write the missing rows by hand; then drop the record",
        ),
        Kind(
            "decisions-overdue",
            WARNING,
            "decision records are older than they are kept",
            "the table grows: no proxy is running, or old transactions hold them",
            "`SELECT pgchorus.purge(...)`",
        ),
    ),
)

AREAS: Final = (CONFIGURATION, SERVERS, HOSTS, SETTINGS, RIGHTS, _PLACEMENTS, _SCHEMA, _ROWS, _TRANSACTIONS)
KINDS: Final = {kind.name: kind for area in AREAS for kind in area.kinds}
