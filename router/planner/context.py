"""What every planner needs to know about one statement, and what a statement's own expressions may do.

Decides nothing about shards. Names are resolved by the catalog, refusals are made by :mod:`router.errors`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from router import clock_words
from router.catalog import effective_path
from router.cluster import Home, Reference, Sharded
from router.effect import NO_EFFECT, FunctionEffect, Runs, merge
from router.errors import Refused, refusal
from router.keys import Reader
from router.named_types import of_call
from router.plan import Plan, Statement
from router.server_values import of_one_server, stores_number
from router.statement import parse
from router.tree import JSON_AGGREGATES, Node, constant, name_parts, same, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.catalog import Catalog
    from router.cluster import Database, Placement
    from router.relation import Relation
    from router.statement import Parsed

OWN_SCHEMA = "pgchorus"
_QUALIFIED = 2
_EQUALS: list[Node] = [{"String": {"sval": "="}}]
_SET_CONFIG_ARGUMENTS = 3
_NAME: Node = {"ColumnRef": {"fields": [{"String": {"sval": "name"}}]}}


class Context:
    """One statement to plan. ``many``: the database has several shards."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        parsed: Parsed,
        search_path: tuple[str, ...],
        parameter_oids: tuple[int, ...],
    ) -> None:
        self.database = database
        self.catalog = catalog
        self.parsed = parsed
        self.body: Node = parsed.body  # the statement's own node
        self._relations: dict[int, tuple[Node, Relation]] = {}  # by the identity of what names them, which is kept
        self._types: dict[tuple[str, ...], FunctionEffect] = {}
        self.search_path = search_path
        self.many = len(database.shards) > 1
        self.home = Home()
        self.decided = False  # a MERGE whose source's rows say whether they match on any shard
        self.survey = False  # only names are looked at: what is refused for values is left to the plan
        path = effective_path(search_path)
        self.reader = Reader(
            parameter_oids,
            equality_hidden=catalog.operator_shadowed("=", path),
            types_hidden=path[0] != "pg_catalog",
        )

    def inside(self, parsed: Parsed) -> Context:
        """Return the context of a statement inside this one (EXPLAIN, DECLARE)."""
        oids = tuple(self.reader.parameter_oids)
        return Context(self.database, self.catalog, parsed, self.search_path, oids)

    def surveyed(self) -> Context:
        """Return a context of the same statement that does not refuse values."""
        found = Context(self.database, self.catalog, self.parsed, self.search_path, tuple(self.reader.parameter_oids))
        found.survey = True
        return found

    def rewritten(self, text: str) -> Context:
        """Return the context of this statement in another text, with more parameters: their types are open."""
        (parsed,) = parse(text)
        known = tuple(self.reader.parameter_oids)
        oids = known + (0,) * (parsed.parameters - len(known))
        return Context(self.database, self.catalog, parsed, self.search_path, oids)

    def like(self, inner: Statement, plan: Plan) -> Statement:
        """Return this statement with another plan and the flags of ``inner``, the same in another text."""
        parsed = self.parsed
        return replace(inner, text=parsed.text, plan=plan, offset=parsed.offset, parameters=parsed.parameters)

    def refuse(self, refused: str, /, at: int | None = None, *, detail: str = "", **words: object) -> Refused:
        """Make a refusal; ``at`` is a place in the tree (bytes)."""
        return refusal(
            refused, detail=detail, position=self.parsed.position(at), **{key: str(word) for key, word in words.items()}
        )

    def statement(self, plan: Plan, tag: str, **flags: Any) -> Statement:
        """Make the statement around a plan."""
        parsed = self.parsed
        return Statement(parsed.text, plan, tag, offset=parsed.offset, parameters=parsed.parameters, **flags)

    # --- relations ---------------------------------------------------------------------------------------------------

    def relation(self, range_var: Node) -> Relation | None:
        """Return what a RangeVar names, None for what the catalog does not have."""
        known = self._relations.get(id(range_var))
        if known is not None:
            return known[1]
        found = self.catalog.resolve(name_parts(range_var), self.search_path)
        if found is None:
            self._check_configured(range_var)
        else:
            self._relations[id(range_var)] = range_var, found
        return found

    def _check_configured(self, range_var: Node) -> None:
        """A table that is placed but not in the catalog must not be taken for a table of the home shard."""
        schema, name = range_var.get("schemaname"), range_var.get("relname")
        for table, placement in self.database.placements.items():
            if table.name != name or isinstance(placement, Home) or not self.many:
                continue
            if schema == table.schema or (schema is None and table.schema in self.search_path):
                raise refusal(
                    "undefined-table",
                    sqlstate="42P01",
                    position=self.parsed.position(range_var.get("location")),
                    name=".".join(name_parts(range_var)),
                )

    def placement(self, relation: Relation | None, at: int | None = None) -> Placement:
        """Return where a relation lives; refuses those that live nowhere."""
        if relation is None:
            return Home()
        found = self.catalog.effective_placement(relation)
        if isinstance(found, Sharded | Reference | Home):
            return found
        raise self.refuse("unplaceable", at, detail=_sentence(found.reason), name=relation.name)

    def check_access(
        self, relation: Relation | None, *, write: bool, defaults: Iterable[str] | None = None, at: int | None = None
    ) -> None:
        """Refuse a relation whose use sets off something that is not exact where it lives."""
        if relation is None or not self.many:
            return
        wanted = None if defaults is None else frozenset(defaults)
        problem = self.catalog.access_problem(relation, write=write, defaults=wanted)
        if problem is not None:
            raise self.refuse("unplaceable", at, detail=_sentence(problem.reason), name=relation.name)

    # --- expressions -------------------------------------------------------------------------------------------------

    def call_effect(self, call: Node) -> FunctionEffect:
        """Return what one FuncCall may do."""
        arguments = None if call.get("func_variadic") else len(call.get("args", ()))
        return self.catalog.function_effect(strings(call.get("funcname")), self.search_path, arguments)

    def nodes(self, body: Node) -> Iterable[tuple[str, Node]]:
        """Return every node of a statement; those of the whole one are listed once."""
        return self.parsed.nodes if body is self.parsed.body else walk(body)

    def effect(self, value: Any) -> FunctionEffect:
        """Return what all functions, operators and casts below ``value`` may do, taken together."""
        return self._effect_of(walk(value))

    def _effect_of(self, nodes: Iterable[tuple[str, Node]]) -> FunctionEffect:
        # By identity: a hash of an effect is one of twenty values, and taking an effect twice changes nothing.
        found = {id(effect): effect for kind, body in nodes if kind in _CALLING for effect in self._effects(kind, body)}
        return merge([NO_EFFECT, *found.values()])

    def _effects(self, kind: str, body: Node) -> list[FunctionEffect]:  # noqa: PLR0911 - one line for each kind
        """Return the effects of one node that may call something."""
        if kind == "FuncCall":
            effect, made = self.call_effect(body), of_call(body)
            of_type = [] if made is None else [self.catalog.type_effect(made, self.search_path)]
            return [effect if effect.found else replace(effect, found=True), of_one_server(kind, body), *of_type]
        if kind == "TypeName":
            return [self._type_effect(strings(body.get("names")) or ("",))]
        if kind == "ColumnRef":
            return [self.catalog.field_effect(strings(body["fields"])[-1])] if len(body["fields"]) > 1 else []
        if kind == "A_Indirection":
            fields = strings([item for item in body.get("indirection", ()) if "String" in item])
            return [self.catalog.field_effect(name) for name in fields]
        if kind == "SQLValueFunction":
            return [FunctionEffect(clock=clock_words.is_keyword(body))]
        if kind in {"InsertStmt", "UpdateStmt", "MergeStmt"}:
            return [self.stores_number(body)]
        if kind in {"TypeCast", "CoalesceExpr", "MinMaxExpr"}:
            return [of_one_server(kind, body)]
        if kind == "A_Expr":
            return [self._operator(body.get("name", [])), of_one_server(kind, body)]
        if kind in JSON_AGGREGATES:
            return [_AGGREGATES]
        return [self._operator(names) for names in _operators(kind, body)]

    def _type_effect(self, name: tuple[str, ...]) -> FunctionEffect:
        found = self._types.get(name)
        if found is None:
            found = self._types[name] = self.catalog.type_effect(name, self.search_path)
        return found

    def stores_number(self, body: Node) -> FunctionEffect:
        """Return the effect of a statement whose columns take objects for numbers; copies take home's."""
        if not (self.parsed.kinds & {"TypeCast", "FuncCall"} or self.catalog.holds_objects):
            return NO_EFFECT  # long rows of constants are not looked through again
        written = self.catalog.resolve(name_parts(body["relation"]), self.search_path)
        if written is None or not isinstance(self.catalog.effective_placement(written), Sharded):
            return NO_EFFECT
        target = body["relation"]
        named = [name_parts(each) for kind, each in self.nodes(body) if kind == "RangeVar" and each is not target]
        sources = [self.catalog.resolve(name, self.search_path) for name in named]
        return stores_number(body, self.nodes(body), written, [source for source in sources if source is not None])

    def _operator(self, names: list[Node] | None) -> FunctionEffect:
        parts = strings(names)
        if not parts:
            return NO_EFFECT
        schema = parts[-_QUALIFIED] if len(parts) >= _QUALIFIED else None
        path = effective_path(self.search_path)
        return self.catalog.operator_effect(parts[-1], path, schema=schema)

    def check_callable(self, value: Any) -> FunctionEffect:
        """Return the effect of ``value``; refuses, at its place, the first call that can run nowhere."""
        nodes = list(walk(value))
        return self._checked(self._effect_of(nodes), nodes)

    def _checked(self, effect: FunctionEffect, nodes: list[tuple[str, Node]]) -> FunctionEffect:
        if not self.many or effect.runs is not Runs.NOWHERE:
            return effect
        for kind, body in nodes:
            if kind == "FuncCall" and self.call_effect(body).runs is Runs.NOWHERE:
                raise self.refuse(
                    "function",
                    body.get("location"),
                    detail=_sentence(self.call_effect(body).reason),
                    name=".".join(strings(body.get("funcname"))),
                )
        raise self.refuse("function-mix", detail=_sentence(effect.reason))

    @cached_property
    def every_effect(self) -> FunctionEffect:
        """The effect of the whole statement's expressions, whether they can run or not."""
        return self._effect_of(self.parsed.nodes)

    @cached_property
    def whole_effect(self) -> FunctionEffect:
        """The effect of the whole statement's expressions; refuses calls that can run nowhere."""
        return self._checked(self.every_effect, self.parsed.nodes)

    @cached_property
    def flags(self) -> dict[str, Any]:
        """Statement flags that follow from what its functions do."""
        return self.flags_of(self.whole_effect)

    def flags_of(self, effect: FunctionEffect) -> dict[str, Any]:
        """Return the flags that follow from an effect; refuses what is another session's."""
        if effect.session_state and self.many:
            # The link that remembers may have served another client, or be another one by now.
            if effect.session_state == "setseed":
                raise self.refuse("seed", name=effect.session_state)
            raise self.refuse("last-value", name=effect.session_state)
        return {
            "pins": effect.pins,
            "dirties": effect.sets and self._sets_unseen(),
            "must_commit": effect.must_commit,
            "set_config": self.set_config(),
        }

    def _sets_unseen(self) -> bool:
        """Whether something sets what :meth:`set_config` does not tell."""
        for kind, body in self.parsed.nodes:
            if kind not in _CALLING or not any(effect.sets for effect in self._effects(kind, body)):
                continue
            if kind != "FuncCall" or strings(body.get("funcname"))[-1:] != ("set_config",):
                return True
            if not self._followed(body):
                return True
        return False

    def _surely_called(self) -> list[Node]:
        """Return the calls that a plain SELECT without FROM makes, each once: its columns."""
        body = self.body
        if self.parsed.kind != "SelectStmt" or body.keys() - {"targetList", "limitOption", "op"}:
            return []
        values = [target.get("ResTarget", {}).get("val", {}) for target in body.get("targetList", ())]
        return [value["FuncCall"] for value in values if "FuncCall" in value]

    def sets_out_of_sight(self, *, told: bool) -> bool:
        """Whether what the statement calls or sets off may make settings; ``told``: it says so of its set_configs."""
        if self.every_effect.sets and (not told or self._sets_unseen()):
            return True
        if not self.catalog.sets_settings:
            return False
        writes = self._writes(_SETTING_OFF)
        return any(self.catalog.sets_off(relation.name, write=writes).sets for relation in self._named)

    def _writes(self, kinds: frozenset[str]) -> bool:
        """Whether something of these kinds is in the statement; COPY writes where it is FROM."""
        found = self.parsed.kinds & kinds
        return bool(found) and (found != {"CopyStmt"} or bool(self.body.get("is_from")))

    def sets_unnamed(self) -> bool:
        """Whether what the statement calls or sets off may make settings whose names nobody can read."""
        writes = self._writes(_SETTING_OFF)
        effects = [self.catalog.sets_off(relation.name, write=writes) for relation in self._named]
        return any(effect.sets_unnamed for effect in [self.every_effect, *effects])

    def pins_out_of_sight(self) -> str:
        """Return why the link must stay with the session, by what the statement calls or sets off ('': it need not)."""
        if self.parsed.kind in _DEFINES:
            return ""
        if self.every_effect.pins:
            return self.every_effect.pins
        write = self._writes(_WRITING | _REWRITING)
        follow, effect_of = self.catalog.closure.follow, self.catalog.effect_of
        for relation in self._named:
            pins = self.catalog.sets_off(relation.name, write=write).pins
            if not pins and self.parsed.kind == "RefreshMatViewStmt":
                pins = effect_of(follow(relation.read_uses)).pins
            if pins:
                return pins
        return ""

    @cached_property
    def _named(self) -> list[Relation]:
        """Return the relations that the statement names anywhere, as far as the catalog has them."""
        found: list[Relation] = []
        for kind, body in self.parsed.nodes:
            if kind == "RangeVar":
                known = self._relations.get(id(body))
                relation = known[1] if known else self.catalog.resolve(name_parts(body), self.search_path)
                if relation is not None:
                    found.append(relation)
        return found

    def leaves_custom(self) -> bool:
        """Whether what the statement calls or sets off may leave a setting behind that no DISCARD removes."""
        parsed = self.parsed
        if parsed.kind == "DoStmt":
            text = parsed.text.lower()
            return any(word in text for word in ("set", "execute", *self.catalog.keeping))
        for kind, body in parsed.nodes:
            if (
                kind == "FuncCall"
                and strings(body.get("funcname"))[-1:] == ("set_config",)
                and not self._followed(body)
            ):
                return True
        if not self.catalog.has_custom_settings:
            return False
        if self._effect_of(parsed.nodes).sets_custom:
            return True
        writes = not parsed.kinds.isdisjoint(_WRITING)
        return any(self.catalog.sets_off(relation.name, write=writes).sets_custom for relation in self._named)

    def set_config(self) -> tuple[tuple[str, str | None, bool], ...]:
        """Return ``set_config(name, value, is_local)`` calls; value None: only a shard can tell what became of it.

        Refuses what clients may not set.
        """
        found = []
        for kind, body in self.parsed.nodes:
            if kind != "FuncCall" or strings(body.get("funcname"))[-1:] != ("set_config",):
                continue
            literals = self._arguments(body)
            if len(literals) != _SET_CONFIG_ARGUMENTS:
                continue
            name, value, local = literals
            if name is None or local is None:
                if self.many:
                    raise self.refuse("setting", body.get("location"), name="set_config", value="an expression")
                continue
            at = body.get("location")
            if isinstance(value, str):
                self.check_setting(str(name).lower(), (value,), at)
            elif self.many and str(name).lower() in _READING:
                raise self.refuse("setting", at, name=str(name), value="an expression")
            is_local = local if isinstance(local, bool) else str(local).lower()[:1] in {"t", "y", "1"}
            known = isinstance(value, str) and any(body is call for call in self._surely_called())
            found.append((str(name).lower(), str(value) if known else None, is_local))
        return tuple(found)

    def _arguments(self, call: Node) -> list[Any]:
        """Return the constants that a set_config is called with, None for what is not one.

        ``SELECT set_config(name, ...) FROM pg_settings WHERE name = 'x'`` names x: it is called for no other. So does
        pg_dump set what a server may not have.
        """
        literals = [constant(_uncast(argument)) for argument in call.get("args", ())]
        found = [literal[1] if literal else None for literal in literals]
        if len(found) == _SET_CONFIG_ARGUMENTS and found[0] is None and same(call["args"][0], _NAME):
            found[0] = self._selected_name()
        return found

    def _selected_name(self) -> object:
        """Return the name of the only row of pg_settings that a plain SELECT reads; None for any other statement."""
        tables: list[Node] = self.body.get("fromClause", []) if self.parsed.kind == "SelectStmt" else []
        table = tables[0].get("RangeVar", {}) if len(tables) == 1 else {}
        condition = self.body.get("whereClause", {}).get("A_Expr", {})
        if not table or "alias" in table or condition.get("kind") != "AEXPR_OP":
            return None
        relation = self.catalog.resolve(name_parts(table), self.search_path)
        settings = relation is not None and str(relation.name) == "pg_catalog.pg_settings"
        if not settings or not same(condition["name"], _EQUALS) or not same(condition["lexpr"], _NAME):
            return None
        literal = constant(condition["rexpr"])
        return literal[1] if literal else None

    def _followed(self, call: Node) -> bool:
        """Whether a call of set_config says what it sets and for how long, so that the session can follow it."""
        found = self._arguments(call)
        return len(found) == _SET_CONFIG_ARGUMENTS and found[0] is not None and found[2] is not None

    def check_setting(self, name: str, values: Iterable[str], at: int | None = None) -> None:
        """Refuse settings under which a shard reads texts otherwise than the router, or that open our schema."""
        words = [value.strip().lower() for value in values]
        if name == "search_path" and any(OWN_SCHEMA in word for word in words):
            raise self.refuse("own-schema", at)
        if name == "search_path" and self.many and words and words[0].partition(",")[0].strip(' "') == "pg_temp":
            raise self.refuse("setting", at, name=name, value="pg_temp first")  # what is created would be temporary
        right = _READING.get(name)
        if self.many and right is not None and any(word not in right for word in words):
            raise self.refuse("setting", at, name=name, value=words[0])


# Settings under which Postgres reads or checks otherwise than the router believes, but for these values. Postgres takes
# any beginning of a boolean's words: a list of the wrong ones would have to be complete.
_READING: Final = {
    "standard_conforming_strings": frozenset({"on", "true", "yes", "1"}),
    "transform_null_equals": frozenset({"off", "false", "no", "0"}),
    "array_nulls": frozenset({"on", "true", "yes", "1"}),  # arrays go from shard to shard as texts
    "session_replication_role": frozenset({"origin"}),
}

_WRITING = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "TruncateStmt"})
# What makes rows, indexes or constraints anew of what a table has.
_REWRITING = frozenset({"AlterTableStmt", "ClusterStmt", "IndexStmt", "ReindexStmt", "VacuumStmt"})
#: ALTER TABLE looks at CHECKs again; other definitions run code with settings of its own.
_SETTING_OFF = _WRITING | {"AlterTableStmt"}
# What names functions for later.
_DEFINES = frozenset(
    {"ViewStmt", "CreateStmt", "RuleStmt", "CreateTrigStmt", "CreateFunctionStmt", "CreateDomainStmt", "DefineStmt",
     "CreatePolicyStmt", "AlterPolicyStmt"}
)  # fmt: skip
_CALLING = frozenset(
    {"FuncCall", "TypeCast", "TypeName", "ColumnRef", "A_Indirection", "SQLValueFunction", "A_Expr", "SubLink",
     "SortBy", "CaseExpr", "JoinExpr", "CoalesceExpr", "MinMaxExpr",
     "InsertStmt", "UpdateStmt", "MergeStmt", *JSON_AGGREGATES}
)  # fmt: skip
_AGGREGATES: Final = FunctionEffect(aggregate=True)


def _operators(kind: str, body: Node) -> list[list[Node]]:
    """Return the names of the operators that a node applies, written or not."""
    if kind == "SubLink":
        return [body.get("operName") or _EQUALS] if body.get("subLinkType") in {"ANY_SUBLINK", "ALL_SUBLINK"} else []
    if kind == "SortBy":
        return [body["useOp"]] if body.get("useOp") else []
    implied = "arg" in body if kind == "CaseExpr" else "usingClause" in body or "isNatural" in body
    return [_EQUALS] if implied else []


def _uncast(node: Node) -> Node:
    inner: Node = node["TypeCast"]["arg"] if "TypeCast" in node else node
    return inner


def _sentence(reason: str) -> str:
    """Turn the catalog's clause into a sentence for DETAIL."""
    return f"{reason[:1].upper()}{reason[1:]}." if reason else ""


def names_own_schema(text: str, kind: str, body: Node) -> bool:
    """Whether a statement names the schema ``pgchorus``, which is the proxy's own."""
    lower = text.lower()
    if OWN_SCHEMA not in lower and "u&" not in lower:
        return False  # only U&"..." can spell a name without its letters
    data = kind in {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"}
    return _names(body, data=data)


def _names(value: Any, *, data: bool) -> bool:
    if isinstance(value, dict):
        if value.get("schemaname") == OWN_SCHEMA or (not data and OWN_SCHEMA in value.values()):
            return True
        return any(_names(item, data=data) for item in value.values())
    if isinstance(value, list):
        first = value[0] if len(value) > 1 else None
        if isinstance(first, dict) and any(
            part.get("String", {}).get("sval") == OWN_SCHEMA for part in value[:-1] if isinstance(part, dict)
        ):
            return True
        return any(_names(item, data=data) for item in value)
    return False
