"""Statements about the session: transactions, settings, SQL-level prepared statements, cursors, notifications.

Decides what they are; the session does them. These are classified in every database, whatever the number of its shards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from router.cluster import Home
from router.plan import HomeShard, SequenceUse, Single, Statement
from router.plan_control import (
    Control,
    CursorControl,
    Prepared,
    PreparedControl,
    Setting,
    SettingControl,
    TransactionControl,
)
from router.planner.passthrough import analyzes
from router.printer import quoted
from router.rewrite import group_end, split_list
from router.tree import constant, items, name_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.planner.context import Context
    from router.statement import Token
    from router.tree import Node

_CONTROLS = {
    "TRANS_STMT_BEGIN": (Control.BEGIN, "BEGIN"),
    "TRANS_STMT_START": (Control.BEGIN, "START TRANSACTION"),
    "TRANS_STMT_COMMIT": (Control.COMMIT, "COMMIT"),
    "TRANS_STMT_ROLLBACK": (Control.ROLLBACK, "ROLLBACK"),
    "TRANS_STMT_SAVEPOINT": (Control.SAVEPOINT, "SAVEPOINT"),
    "TRANS_STMT_RELEASE": (Control.RELEASE, "RELEASE"),
    "TRANS_STMT_ROLLBACK_TO": (Control.ROLLBACK_TO, "ROLLBACK"),
}
_TWO_PHASE = {
    "TRANS_STMT_PREPARE": "PREPARE TRANSACTION",
    "TRANS_STMT_COMMIT_PREPARED": "COMMIT PREPARED",
    "TRANS_STMT_ROLLBACK_PREPARED": "ROLLBACK PREPARED",
}


_OWN_GID = "pgchorus:"  # with which the names of distributed transactions begin


def transaction(context: Context) -> Statement:
    """BEGIN, COMMIT, savepoints; PREPARE TRANSACTION."""
    body = context.body
    kind = body["kind"]
    if kind in _TWO_PHASE:
        if context.many and kind == "TRANS_STMT_PREPARE":
            # The session's: it ends a failed block as ROLLBACK does, and only there it is no two-phase commit.
            return context.statement(TransactionControl(Control.PREPARE), _TWO_PHASE[kind])
        if context.many:
            raise context.refuse("two-phase", body.get("location"), name=_TWO_PHASE[kind])
        if body.get("gid", "").startswith(_OWN_GID):
            raise context.refuse("own-gid", body.get("location"))
        return context.statement(
            Single(HomeShard(), writes=True), _TWO_PHASE[kind], transaction_block=kind == "TRANS_STMT_PREPARE"
        )
    control, tag = _CONTROLS[kind]
    modes = _modes(body.get("options", []))
    plan = TransactionControl(
        control,
        savepoint=body.get("savepoint_name", ""),
        options=modes[0],
        read_only=modes[1],
        isolation=modes[2],
        deferrable=modes[3],
        chain=bool(body.get("chain")),
    )
    return context.statement(plan, tag)


def _modes(options: list[Node]) -> tuple[str, bool | None, str | None, bool | None]:
    """Read transaction modes; the last of a kind counts, as in Postgres."""
    read_only: bool | None = None
    isolation: str | None = None
    deferrable: bool | None = None
    for option in options:
        body = option["DefElem"]
        literal = constant(body.get("arg", {}))
        value = literal[1] if literal is not None else None
        if body["defname"] == "transaction_isolation":
            isolation = str(value).lower()
        elif body["defname"] == "transaction_read_only":
            read_only = bool(value)
        elif body["defname"] == "transaction_deferrable":
            deferrable = bool(value)
    words = []
    if isolation is not None:
        words.append(f"ISOLATION LEVEL {isolation.upper()}")
    if read_only is not None:
        words.append("READ ONLY" if read_only else "READ WRITE")
    if deferrable is not None:
        words.append("DEFERRABLE" if deferrable else "NOT DEFERRABLE")
    return ", ".join(words), read_only, isolation, deferrable


def _on(flag: bool | None) -> str | None:  # noqa: FBT001 - what it is about
    return None if flag is None else "on" if flag else "off"


def set_variable(context: Context) -> Statement:
    """SET, RESET, SET TRANSACTION, SET SESSION CHARACTERISTICS."""
    body = context.body
    kind, name, local = body["kind"], body.get("name", ""), bool(body.get("is_local"))
    if kind == "VAR_SET_MULTI":
        return _set_multi(context, name)
    if kind == "VAR_RESET_ALL":
        return context.statement(SettingControl(Setting.RESET_ALL), "RESET")
    values = setting_values(body)
    context.check_setting(name.lower(), values, body.get("location"))
    if name.lower() in _READ_ONLY and values:
        return _set_transaction_mode(context, name.lower(), values[0])
    to_default = kind == "VAR_RESET" or (kind == "VAR_SET_DEFAULT" and not local)
    setting = Setting.RESET if to_default else Setting.SET
    tag = "RESET" if kind == "VAR_RESET" else "SET"
    return context.statement(SettingControl(setting, name.lower(), local), tag)


_READ_ONLY = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})
_TRUE = frozenset({"on", "true", "yes", "1", "t", "y"})


def _set_transaction_mode(context: Context, name: str, value: str) -> Statement:
    """``SET transaction_isolation = ...`` is SET TRANSACTION in other words."""
    word = value.lower()
    if name == "transaction_isolation":
        plan = TransactionControl(Control.SET_TRANSACTION, options=f"ISOLATION LEVEL {word.upper()}", isolation=word)
        if word not in {"read committed", "repeatable read", "serializable", "read uncommitted"}:
            return context.statement(SettingControl(Setting.SET, name), "SET")
    elif name == "transaction_read_only":
        flag = word in _TRUE
        plan = TransactionControl(
            Control.SET_TRANSACTION, options="READ ONLY" if flag else "READ WRITE", read_only=flag
        )
    else:
        flag = word in _TRUE
        plan = TransactionControl(
            Control.SET_TRANSACTION, options="DEFERRABLE" if flag else "NOT DEFERRABLE", deferrable=flag
        )
    return context.statement(plan, "SET")


def setting_values(body: Node) -> list[str]:
    """Return what a VariableSetStmt assigns, as texts; nothing for DEFAULT."""
    return [str(literal[1]) for literal in map(_setting_value, body.get("args", ())) if literal is not None]


def _setting_value(node: Node) -> tuple[str, object] | None:
    return constant(node["TypeCast"]["arg"]) if "TypeCast" in node else constant(node)


def _set_multi(context: Context, name: str) -> Statement:
    if name == "TRANSACTION SNAPSHOT":
        if context.many:
            raise context.refuse("transaction-snapshot", context.body.get("location"))
        return context.statement(Single(HomeShard(), writes=False), "SET")
    options, read_only, isolation, deferrable = _modes(context.body.get("args", []))
    if name == "SESSION CHARACTERISTICS":
        made = (("isolation", isolation), ("read_only", _on(read_only)), ("deferrable", _on(deferrable)))
        characteristics = tuple((f"default_transaction_{of}", value) for of, value in made if value is not None)
        return context.statement(
            SettingControl(Setting.SESSION_CHARACTERISTICS, "session characteristics", characteristics=characteristics),
            "SET",
        )
    plan = TransactionControl(
        Control.SET_TRANSACTION, options=options, read_only=read_only, isolation=isolation, deferrable=deferrable
    )
    return context.statement(plan, "SET")


def show(context: Context) -> Statement:
    """SHOW name, SHOW ALL."""
    return context.statement(
        SettingControl(Setting.SHOW, context.body.get("name", "").lower()), "SHOW", returns_rows=True
    )


def constraints(context: Context) -> Statement:
    """SET CONSTRAINTS: of named ones, shards other than home have those of placed tables only."""
    named = [item["RangeVar"] for item in context.body.get("constraints", ())]
    elsewhere = None
    at_home = [_is_at_home(context, body) for body in named]
    if context.many and any(at_home):
        mode = "DEFERRED" if context.body.get("deferred") else "IMMEDIATE"
        kept = [quoted(*name_parts(body)) for body, home in zip(named, at_home, strict=True) if not home]
        elsewhere = f"SET CONSTRAINTS {', '.join(kept)} {mode}" if kept else ""
    return context.statement(
        SettingControl(Setting.SET_CONSTRAINTS, local=True, elsewhere=elsewhere), "SET CONSTRAINTS"
    )


def _is_at_home(context: Context, range_var: Node) -> bool:
    """Whether all constraints of this name are those of tables that only the home shard has."""
    name, schema = range_var["relname"], range_var.get("schemaname")
    found = [
        relation
        for relation in context.catalog.relations
        if schema in {None, relation.name.schema}
        and name in {*(k.name for k in relation.foreign_keys), *(i.name for i in relation.unique),
                     *(t.name for t in relation.triggers)}
    ]  # fmt: skip
    return bool(found) and all(isinstance(context.catalog.table_placement(r.name), Home) for r in found)


def discard(context: Context) -> Statement:
    """DISCARD ALL is the session's; the others concern the home shard's link."""
    target = context.body.get("target", "DISCARD_ALL")
    if target == "DISCARD_ALL":
        return context.statement(SettingControl(Setting.DISCARD_ALL), "DISCARD ALL", transaction_block=False)
    plan = Single(HomeShard(), writes=False)
    if target == "DISCARD_SEQUENCES" and not context.many:
        return context.statement(plan, "DISCARD SEQUENCES", sequences=SequenceUse.ADVANCES)
    return context.statement(plan, target.replace("_", " "))


# --- prepared statements ---------------------------------------------------------------------------------------------


def prepare(context: Context) -> Statement:
    """PREPARE name (types) AS body."""
    parsed = context.parsed
    tokens, text = parsed.tokens, parsed.text
    types: tuple[str, ...] = ()
    at = _behind_name(tokens)
    if at < len(tokens) and tokens[at].name == "ASCII_40":
        end = group_end(tokens, at)
        if end is None:
            raise context.refuse("unknown-statement", name="this form of PREPARE")
        types = split_list(parsed, at, end)
        at = end + 1
    if at >= len(tokens) or tokens[at].name != "AS":
        raise context.refuse("unknown-statement", name="this form of PREPARE")
    context.check_callable(context.body.get("argtypes"))  # an argument is made one of its type, wherever it is read
    plan = PreparedControl(
        Prepared.PREPARE, context.body["name"], type_names=types, body=text[tokens[at + 1].start : parsed.end]
    )
    return context.statement(plan, "PREPARE")


def _behind_name(tokens: Sequence[Token]) -> int:
    """Return the place of what follows PREPARE name or EXECUTE name; empty statements may stand before it."""
    return next(number for number, token in enumerate(tokens) if token.name != "ASCII_59") + 2


def execute(context: Context) -> Statement:
    """EXECUTE name (arguments)."""
    plan = PreparedControl(Prepared.EXECUTE, context.body["name"])
    plan = _with_arguments(context, plan, context.body, _behind_name(context.parsed.tokens), "this form of EXECUTE")
    return context.statement(plan, "EXECUTE", returns_rows=True)


def _with_arguments(context: Context, plan: PreparedControl, body: Node, at: int, form: str) -> PreparedControl:
    """Add the arguments of an EXECUTE, whose parentheses open at a token."""
    count = len(items(body.get("params")))
    if not count:
        return plan
    tokens = context.parsed.tokens
    end = group_end(tokens, at)
    if end is None:
        raise context.refuse("unknown-statement", name=form)
    begin = tokens[at].end
    text = context.parsed.text[begin : tokens[end].start]
    return replace(plan, arguments=text, argument_count=count, arguments_at=begin)


def explain(context: Context) -> Statement:
    """EXPLAIN (options) EXECUTE name (arguments)."""
    parsed = context.parsed
    tokens, text = parsed.tokens, parsed.text
    at = next(number for number, token in enumerate(tokens) if token.name == "EXECUTE") + 1
    execute = context.body["query"]["ExecuteStmt"]
    plan = PreparedControl(
        Prepared.EXPLAIN,
        execute["name"],
        body=text[: tokens[at].start],
        rest=text[tokens[at].end : parsed.end],
        runs=analyzes(context.body),
    )
    plan = _with_arguments(context, plan, execute, at + 1, "this form of EXPLAIN EXECUTE")
    return context.statement(plan, "EXPLAIN", returns_rows=True)


def deallocate(context: Context) -> Statement:
    """DEALLOCATE name, DEALLOCATE ALL."""
    name = context.body.get("name", "")
    if context.body.get("isall") or not name:
        return context.statement(PreparedControl(Prepared.DEALLOCATE_ALL), "DEALLOCATE ALL")
    return context.statement(PreparedControl(Prepared.DEALLOCATE, name), "DEALLOCATE")


# --- cursors, notifications ------------------------------------------------------------------------------------------


def fetch(context: Context) -> Statement:
    """FETCH and MOVE."""
    move = bool(context.body.get("ismove"))
    direction = context.body.get("direction")
    plan = CursorControl(
        context.body.get("portalname", ""),
        move=move,
        count=context.body.get("howMany", 0),
        forward=direction == "FETCH_FORWARD",
        relative=direction == "FETCH_RELATIVE",
    )
    return context.statement(plan, "MOVE" if move else "FETCH", returns_rows=not move)


def close(context: Context) -> Statement:
    """CLOSE name, CLOSE ALL."""
    name = context.body.get("portalname")
    return context.statement(CursorControl(name, closes=True), "CLOSE CURSOR" if name else "CLOSE CURSOR ALL")


def listen(context: Context) -> Statement:
    """LISTEN: the home shard's link stays with the session."""
    return context.statement(Single(HomeShard(), writes=True), "LISTEN", pins="LISTEN", must_commit="LISTEN")


def unlisten(context: Context) -> Statement:
    """UNLISTEN."""
    return context.statement(Single(HomeShard(), writes=True), "UNLISTEN", must_commit="UNLISTEN")


def notify(context: Context) -> Statement:
    """NOTIFY is heard by those that listen at home."""
    return context.statement(Single(HomeShard(), writes=True), "NOTIFY", must_commit="NOTIFY")
