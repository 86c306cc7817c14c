"""What stored SQL names, read from text alone."""

from __future__ import annotations

import pytest

from router.assigned import surely_assigned
from router.cluster import TableName
from router.declared_types import declared_types
from router.functions import (
    Body,
    Directory,
    Names,
    identifier,
    names_of_definition,
    names_of_expression,
    names_of_plpgsql,
    names_of_statements,
    uses_of,
)
from router.relation import FunctionName, Uses


def plpgsql(body: str, signature: str = "", returns: str = "void") -> Names:
    return names_of_plpgsql(
        f"CREATE FUNCTION f({signature}) RETURNS {returns} LANGUAGE plpgsql AS $function$ {body} $function$"
    )


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("SELECT * FROM a JOIN s.b USING (x) WHERE EXISTS (SELECT FROM c)", {"a", "s.b", "c"}, set()),
        ("INSERT INTO a SELECT * FROM b", {"a", "b"}, {"a"}),
        ("UPDATE a SET x = b.x FROM b", {"a", "b"}, {"a"}),
        ("DELETE FROM a USING b WHERE a.x = b.x", {"a", "b"}, {"a"}),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", {"a", "b"}, {"a"}),
        ("WITH w AS (DELETE FROM a RETURNING *) SELECT * FROM w", {"a", "w"}, {"a"}),
        ("SELECT * FROM a, b FOR UPDATE OF a", {"a", "b"}, {"a", "b"}),
        ("LOCK TABLE a; TRUNCATE b, c", {"a", "b", "c"}, {"a", "b", "c"}),
        ("TABLE a UNION ALL SELECT * FROM b EXCEPT SELECT * FROM c", {"a", "b", "c"}, set()),
        ("SELECT nextval('s.\"Q q\"'::regclass), currval('t')", {"s.Q q", "t"}, set()),
        ("VALUES ((SELECT max(x) FROM a))", {"a"}, set()),
    ],
)
def test_relations(text: str, reads: set[str], writes: set[str]) -> None:
    names = names_of_statements(text)
    assert {".".join(parts) for parts in names.reads} == reads
    assert {".".join(parts) for parts in names.writes} == writes
    assert names.unknown == ""


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("SELECT f(x)", "f"),
        ("SELECT x FROM s.f(1) AS t", "s.f"),
        ("SELECT sum(x) OVER (ORDER BY g(y)) FROM a", "g"),
        ("SELECT CASE WHEN f(1) THEN 1 END ORDER BY h(2)", "h"),
        ("CALL f(1)", "f"),
        ("SELECT CURRENT_TIMESTAMP", "pg_catalog.now"),
        ("SELECT LOCALTIME", "pg_catalog.now"),
        ("SELECT current_date", "pg_catalog.now"),
        ("NOTIFY a", "pg_catalog.pg_notify"),
        ("SELECT (ARRAY(SELECT f(x)))[g(1)]", "g"),
        ("SELECT count(*) FILTER (WHERE f(x)) FROM a", "f"),
        ("SELECT 1 LIMIT f(1)", "f"),
    ],
)
def test_functions(text: str, function: str) -> None:
    assert function in {".".join(parts) for parts in names_of_statements(text).functions}


def test_operators_types_and_fields() -> None:
    names = names_of_statements(
        "SELECT a.f, b OPERATOR(s.##) 1, c::my.t, (x).g FROM a WHERE y = ANY (SELECT 1) ORDER BY 1 USING <<"
    )
    assert {("s", "##"), ("=",), ("<<",)} <= names.operators
    assert ("my", "t") in names.types
    assert {"f", "g"} <= names.fields


@pytest.mark.parametrize(
    ("body", "types"),
    [
        ("DECLARE r plain%rowtype; q s2.ht.v%type := 1; x CONSTANT numeric(10,2) = 2; BEGIN r := x; END",
         {"plain", "s2.ht", "numeric"}),
        ('<<b>> DECLARE "A b" "D"[] NOT NULL DEFAULT 1; c CURSOR (n en, m s.t) FOR SELECT plain; BEGIN END',
         {"D", "en", "s.t"}),
        ("BEGIN DECLARE e Mood; BEGIN then_or_end := plain; END; END", {"mood"}),
        ("DECLARE a int; b a%type; c ALIAS FOR $1; BEGIN NULL; END", {"int", "alias"}),
        ("BEGIN declares := plain; END", set()),
    ],
)  # fmt: skip
def test_declared_types(body: str, types: set[str]) -> None:
    assert {".".join(parts) for parts in declared_types(body)} == types


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("SELECT pg_input_is_valid('1', 's.\"D\"(3)')", "s.D"),
        ("SELECT pg_input_error_info(x, 'd[]'::text)", "d"),
        ("SELECT pg_input_is_valid('1', x)", "*"),
        ("SELECT jsonb_populate_record(x.h, j) FROM x", "*"),
        ("SELECT jsonb_populate_record(NULL::h, j) FROM x", "h"),
    ],
)
def test_calls_that_make_a_type(text: str, made: str) -> None:
    assert made in {".".join(parts) for parts in names_of_statements(text).types}


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        ('begin new.k := new.k + 1; perform f(); NEW."V" = 3; return new; end', {"k", "V"}),
        ("begin if new.k is null then new.k = 5; end if; new.v := 1; return new; end", set()),
        ("begin new.k := coalesce(new.k, 7); new.v = old.v; new.n := new.k; return new; end", {"n"}),
        ("declare r t; begin r.k := 1; return new; end", set()),
    ],
)
def test_what_a_trigger_surely_assigns(body: str, columns: set[str]) -> None:
    definition = f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"
    assert surely_assigned(definition) == columns


def test_a_name_within_a_word_is_no_type() -> None:
    directory = Directory(types={"en": (("public", Uses(reads=frozenset({TableName("public", "notes")}))),)})
    for text, found in (("BEGIN IF x THEN NULL; END IF; END", False), ("DECLARE x en; BEGIN NULL; END", True)):
        uses, _ = uses_of(
            Body("plpgsql", text, f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $${text}$$"), directory
        )
        assert bool(uses.reads) is found


@pytest.mark.parametrize(
    "text", ["CREATE TABLE a (b int)", "DROP TABLE a", "SELECT 1 INTO a", "COPY a FROM STDIN", "not SQL"]
)
def test_what_cannot_be_told(text: str) -> None:
    assert names_of_statements(text).unknown


@pytest.mark.parametrize("text", ["x", "5", "'now'", "NULL", ""])
def test_trivial_expressions_name_nothing(text: str) -> None:
    assert names_of_expression(text) == Names()


@pytest.mark.parametrize("text", ["a=b", "f(1)", "s.f", "x::my.t", "-f(2)"])
def test_other_expressions_are_read(text: str) -> None:
    assert names_of_expression(text) != Names()


@pytest.mark.parametrize(
    ("body", "function"),
    [
        ("DECLARE a int[]; BEGIN a[target(1)] := source(2); END", "target"),
        ("DECLARE a int[]; BEGIN a[target(1)] := source(2); END", "source"),
        ("DECLARE a int; BEGIN a = source(2); END", "source"),
        ("DECLARE a int := source(2); BEGIN NULL; END", "source"),
        ("BEGIN PERFORM source(1); END", "source"),
        ("BEGIN IF source(1) THEN NULL; END IF; END", "source"),
        ("BEGIN FOR i IN 1..source(1) LOOP NULL; END LOOP; END", "source"),
        ("BEGIN WHILE source(1) LOOP EXIT WHEN other(2); END LOOP; END", "other"),
        ("BEGIN RAISE NOTICE '%', source(1); END", "source"),
        ("BEGIN ASSERT source(1); END", "source"),
        ("BEGIN CALL source(1); END", "source"),
        ("BEGIN CASE source(1) WHEN 1 THEN NULL; ELSE NULL; END CASE; END", "source"),
        ("BEGIN NULL; EXCEPTION WHEN others THEN PERFORM source(1); END", "source"),
        ("DECLARE c CURSOR (n int) FOR SELECT source(n); BEGIN OPEN c(other(1)); END", "source"),
        ("DECLARE c CURSOR (n int) FOR SELECT source(n); BEGIN OPEN c(other(1)); END", "other"),
    ],
)
def test_every_expression_of_plpgsql_is_read(body: str, function: str) -> None:
    names = plpgsql(body)
    assert (function,) in names.functions
    assert names.unknown == ""


@pytest.mark.parametrize(
    ("body", "returns", "word"),
    [
        ("BEGIN EXECUTE 'x'; END", "void", "dynamic"),
        ("BEGIN RETURN QUERY EXECUTE 'x'; END", "SETOF int", "dynamic"),
        ("DECLARE r record; BEGIN FOR r IN EXECUTE 'x' LOOP NULL; END LOOP; END", "void", "dynamic"),
        ("DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'x'; END", "void", "dynamic"),
        ("BEGIN COMMIT; END", "void", "transactions"),
        ("BEGIN CREATE TABLE a (b int); END", "void", "Create"),
        ("BEGIN nonsense here; END", "void", "parser"),
    ],
)
def test_plpgsql_that_cannot_be_told(body: str, returns: str, word: str) -> None:
    assert word in plpgsql(body, returns=returns).unknown


def test_defaults_of_parameters_are_read() -> None:
    assert ("hidden",) in plpgsql("BEGIN NULL; END", "a int DEFAULT hidden(1)").functions


def test_settings_are_noticed() -> None:
    assert plpgsql("BEGIN SET LOCAL work_mem = '1MB'; END").sets
    assert names_of_statements("SET search_path = a").sets
    assert not names_of_statements("SELECT 1").sets


def test_definitions() -> None:
    rule = names_of_definition("CREATE RULE r AS ON INSERT TO t WHERE g(new.a) DO ALSO INSERT INTO log SELECT 1 FROM u")
    assert (rule.reads, rule.writes) == ({("log",), ("u",)}, {("log",)})
    assert ("g",) in rule.functions
    trigger = names_of_definition(
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW WHEN (g(new.a)) EXECUTE FUNCTION h()"
    )
    assert (trigger.reads, trigger.functions) == (frozenset(), {("g",)})
    atomic = names_of_definition("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 FROM a; DELETE FROM b; END")
    assert (atomic.reads, atomic.writes) == ({("a",), ("b",)}, {("b",)})
    assert names_of_definition("DROP TABLE a").unknown


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a",)),
        ('S."T t"', ("s", "T t")),
        ('"A""b"', ('A"b',)),
        ("a b c", None),
        ("", None),
        ("a; DROP TABLE b", None),
    ],
)
def test_identifiers(text: str, parts: tuple[str, ...] | None) -> None:
    assert identifier(text) == parts


DIRECTORY = Directory(
    relations={"a": (TableName("x", "a"), TableName("y", "a"))},
    functions={"f": (FunctionName("x", "f"),), "lower": (FunctionName("y", "lower"),)},
    row_functions=frozenset({"f"}),
)


def test_unqualified_names_mean_every_object_of_that_name() -> None:
    uses = DIRECTORY.resolve(names_of_statements("SELECT lower(v) FROM a"))
    assert uses.reads == {TableName("x", "a"), TableName("y", "a")}
    assert uses.functions == {FunctionName("y", "lower"), FunctionName("pg_catalog", "lower")}
    assert DIRECTORY.resolve(names_of_statements("SELECT 1 FROM x.a")).reads == {TableName("x", "a")}


def test_a_field_may_be_a_call() -> None:
    assert FunctionName("x", "f") in DIRECTORY.resolve(names_of_statements("SELECT r.f FROM r")).functions


@pytest.mark.parametrize(
    ("body", "closed"),
    [
        (Body("c", volatile="i"), True),
        (Body("c", volatile="s"), False),
        (Body("c", volatile="v", extension="pgcrypto"), True),
        (Body("c", volatile="v", extension="dblink"), False),
        (Body("internal", "int4pl"), True),
        (Body("plpython3u", "return 1", volatile="i"), False),
    ],
)
def test_other_languages(body: Body, *, closed: bool) -> None:
    uses, _ = uses_of(body, DIRECTORY)
    assert (uses.unknown == "") == closed
