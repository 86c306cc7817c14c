"""Who each shard says it is, what is placed how, and whether the schema ``pgchorus`` is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.finding import FILE, SHELL, Command
from proxy.doctor.look import listed
from proxy.shards import schema
from router.cluster import Reference, Sharded
from router.own_schema import quote_table
from router.sharding import hash_family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.doctor.look import Look
    from proxy.shards.schema import ShardLook
    from router.cluster import TableName

EVENT_TRIGGERS: Final = ("pgchorus_ddl", "pgchorus_drop")
RELATIONS: Final = frozenset(
    {
        "fence",
        "decision",
        "secret",
        "epoch",
        "waiting",
        "meta",
        "placement",
        "catalog_change",
        "proxy_version",
        "strays",
    }
)
ROUTINES: Final = {
    "gid_time": False, "check_epoch": False, "decide": True, "fence_commit": True, "abandon": False, "purge": False,
    "stray": True, "note_change": True, "guard": True, "note_ddl": None,
    "hold_view": True, "fill_view": True,
}  # fmt: skip
"""Whether every role must be able to execute it (None: does not matter)."""


def init_command(look: Look) -> Command:
    """Return the command that makes, renews and stores all of ours."""
    return Command(SHELL, f"pgchorus init -c {look.options.config}")


async def look_at_placements(look: Look) -> None:
    """Compare every shard with the configuration."""
    wanted = schema.declared(look.database)
    shards = {shard: await schema.look_at(look.control, look.database, shard, wanted) for shard in look.up}
    bare = [shard for shard in look.up if shards[shard].meta is None]
    for shard in bare:
        look.add("not-installed", shard, "", "no schema pgchorus", init_command(look))
    known = {shard: one for shard, one in shards.items() if one.meta is not None}
    for shard, one in known.items():
        _identity(look, shard, one)
        _stored(look, shard, one)
        _own_schema(look, shard)
    epochs = {shard: one.epoch for shard, one in known.items()}
    if len(set(epochs.values())) > 1:
        detail = ", ".join(f"{look.name(shard)} {epoch}" for shard, epoch in epochs.items())
        look.add("epochs-differ", known, "", detail, init_command(look))
    elif known and look.whole and not bare:
        look.epoch = next(iter(epochs.values()))
    for table in sorted(wanted):
        _table(look, table, {shard: one.tables.get(quote_table(table)) for shard, one in shards.items()})


def _identity(look: Look, shard: int, one: ShardLook) -> None:
    meta = one.meta or {}
    wanted = schema.expected_meta(look.database, look.config.cluster.name, shard)
    path = f"databases.{look.database.name}"
    if meta["cluster"] != wanted["cluster"]:
        edit = Command(FILE, f"{path}.shards.{look.name(shard)}: another DSN; or cluster: {meta['cluster']}")
        look.add("foreign-cluster", shard, "", f"it belongs to the cluster {meta['cluster']}", edit)
        return
    if meta["shard"] != wanted["shard"]:
        edit = Command(FILE, f"{path}.shards: exchange the DSNs of {look.name(shard)} and {meta['shard']}")
        look.add("shards-mixed-up", shard, "", f"it says that it is {meta['shard']}", edit)
        return
    for what in ("shards", "home", "slots", "spread"):
        there = schema.kept(meta, what)
        if there != wanted[what]:
            edit = Command(FILE, f"{path}.{what}: {there}    (or, with empty tables, pgchorus init)")
            look.add(
                "layout-differs",
                shard,
                what,
                f"{there} there, {wanted[what]} in the configuration",
                edit,
            )


def _stored(look: Look, shard: int, one: ShardLook) -> None:
    wanted, stored = schema.declared(look.database), one.placements or {}
    for table in sorted(wanted.keys() | stored.keys()):
        if wanted.get(table) != stored.get(table):
            detail = f"{_words(stored.get(table))} there, {_words(wanted.get(table))} in the configuration"
            look.add("placement-differs", shard, table, detail, init_command(look))


def _words(row: tuple[Any, ...] | None) -> str:
    if row is None:
        return "not placed"
    return "a reference table" if row[0] == "reference" else f"sharded by {row[1]}"


def _own_schema(look: Look, shard: int) -> None:
    facts = look.facts[shard]
    own = facts["own"]
    if own is None:
        return
    wrong = [] if own["usage"] else ["USAGE for everybody"]
    wrong += sorted(RELATIONS - {*own["relations"]})
    for name, public in ROUTINES.items():
        if name not in own["routines"]:
            wrong.append(f"{name}()")
        elif public and not own["routines"][name][0]:
            wrong.append(f"EXECUTE on {name}() for everybody")
    home = look.facts.get(look.home, facts)["own"]
    if home is not None:
        both = own["routines"].keys() & home["routines"].keys() & ROUTINES.keys()
        wrong += [
            f"{name}() is not as at home"
            for name in sorted(both)
            if own["routines"][name][1:] != home["routines"][name][1:]
        ]
    if wrong:
        look.add("own-schema-damaged", shard, "", f"missing or wrong: {listed(wrong)}", init_command(look))
    for name in EVENT_TRIGGERS:
        state = facts["event_triggers"].get(name)
        if state is None:
            look.add("ddl-unnoticed", shard, name, "is not there", init_command(look))
        elif state not in {"O", "A"}:
            enable = look.sql(shard, f"ALTER EVENT TRIGGER {name} ENABLE")
            look.add("ddl-unnoticed", shard, name, "is disabled", enable)


def _table(look: Look, table: TableName, on: Mapping[int, tuple[str, str | None, bool] | None]) -> None:
    placement = look.database.placements[table]
    there = [shard for shard, one in on.items() if one is not None]
    missing = [shard for shard, one in on.items() if one is None]
    path = f"databases.{look.database.name}.tables.{table}"
    if not there:
        edit = Command(FILE, f"{path}: take it out, unless the table is to come")
        look.add("table-not-there", (), table, "on no shard", edit)
        return
    source = look.home if look.home in there else there[0]
    dump = f"pg_dump --schema-only --table='{quote_table(table)}' '{look.target(source)}'"
    for shard in missing:
        copy = Command(SHELL, f"{dump} | psql -X -v ON_ERROR_STOP=1 '{look.target(shard)}'")
        kind = "reference" if isinstance(placement, Reference) else "sharded"
        look.add("table-missing", shard, table, f"the {kind} table is on {look.names(there)}", copy, init_command(look))
    if not isinstance(placement, Sharded):
        return
    for shard in there:
        relkind, key_type, deterministic = on[shard] or ("", None, True)
        reason = ""
        if relkind not in {"r", "p"}:
            reason = "it is not a table"
        elif key_type is None:
            reason = f"the key {placement.key} is not a column"
        elif not hash_family(key_type):
            reason = f"the key {placement.key} is of type {key_type}"
        elif not deterministic:
            reason = f"the key {placement.key} has a nondeterministic collation"
        if reason:
            edit = Command(FILE, f"{path}.key: a column of type int2, int4, int8, text, varchar, char(n) or uuid")
            look.add("key-unfit", shard, table, reason, edit)
