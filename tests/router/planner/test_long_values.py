"""Long INSERTs planned by two of their rows: the plan must be the one that the whole text has."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from router.errors import Refused, SyntaxFailure
from router.plan import Scatter, Single, SplitInsert
from router.plan_steps import Filled
from router.planner import Planner, base, long_values
from shop import RELATIONS, shop

if TYPE_CHECKING:
    from router.plan import Statement

TABLES = [relation for relation in RELATIONS if relation.is_table and relation.columns]
PLAIN = ["1", "0", "-1", "-0", "007", "123456789", "2147483647", "2147483648", "-2147483648", "9007199254740993",
         "9223372036854775808", "1.5", "-1.5", ".5", "1.", "1e3", "null", "NULL", "true", "False", "''", "'a'", "'7'",
         "'07'", "' 7 '", "'0x10'", "'it''s'", "'(1, 2), ('", "'a -- b'", "'/* c */'", "'$1'", "'know now or never'",
         "'snow'", "'é'", "'2020-01-01'", "'6f8a1c2e-0000-4000-8000-1234567890ab'", "'abcdefgh'", "'abc   '", "$1",
         "$2", "$3", "$17"]  # fmt: skip
ODD = ["default", "now()", "'now'", "' Today '", "'tomorrow'::date", "1 + 1", "- 5", "+5", "(1)", "e'a\\n'", "'a\\'",
       "$$x$$", "b'1'", "x'ff'", "u&'a'", "n'a'", "1_000", "0x1F", "1a", "(select 1)", "nextval('numbers')", "roll()",
       "1--\n", "1/* x */", "'a'\n'b'", "current_date", "$0", "pgchorus.x", "'pgchorus'", "'\udcff'", "row(1)",
       "array[1]"]  # fmt: skip
TAILS = [""] * 8 + [";", " ; ", " returning *", "\nRETURNING 1", " on conflict do nothing", " limit 1", " order by 1",
                    " union select 1", "; select 1", " -- end", " returning '$9'", " returning $9", ", ", " garbage",
                    " on conflict (id) do update set name = 'x'", "; -- $8"]  # fmt: skip
FILLED = [relation for relation in TABLES if any("(" in column.default for column in relation.columns)]
BLANKS = ["", "", "", " ", "\n\t"]


def sentence(dice: random.Random) -> str:
    """Make up an INSERT; most are plain."""
    filled = dice.random() < 0.3  # columns that are left out are filled in
    relation = dice.choice(FILLED if filled else TABLES)
    names = [column.name for column in relation.columns]
    chosen = dice.sample(names, dice.randint(1, len(names))) if dice.random() < 0.5 else names
    if dice.random() < 0.2:
        chosen = names[: dice.randint(1, len(names))]
    if filled:
        given = [column.name for column in relation.columns if not column.default]
        chosen = dice.sample(given, dice.randint(1, len(given)))
    written = [dice.choice([name, '"' + name + '"']) for name in chosen]
    columns = f" ({', '.join(written)})" if dice.random() < 0.8 else ""
    odd = 0.01 if dice.random() < 0.3 else 0.0
    kinds = [dice.sample(PLAIN, dice.randint(1, 3)) if dice.random() < 0.8 else PLAIN for _ in chosen]
    if dice.random() < 0.8:
        kinds[0] = dice.choice([["1", "2", "3"], ["'a'", "'b'", "null"], ["$1", "$2", "$3"], ["1"]])
    rows = []
    for _ in range(dice.randint(2, 6)):
        values = [dice.choice(ODD) if dice.random() < odd else dice.choice(kind) for kind in kinds]
        if dice.random() < odd:
            values.append("1")
        gap = dice.choice(BLANKS)
        rows.append(f"({gap}{f'{gap},{gap}'.join(values)}{gap})")
    head = dice.choice(
        ["insert into ", "INSERT  INTO\n", " insert into public.", "/* c */ insert into ", "insert into "]
    )
    said = dice.choice([" values ", "\nVALUES", " values", " overriding system value values ", *[" values "] * 6])
    between = dice.choice([", ", ",", "\n,", *[", "] * 6, " ", ", -- c\n"])
    return head + relation.name.name + columns + said + between.join(rows) + dice.choice(TAILS)


def outcome(planner: Planner, text: str, oids: tuple[int, ...]) -> object:
    try:
        return planner.plan(text, ("public",), oids)
    except Refused as refused:
        return refused.refusal, refused.position, refused.message
    except SyntaxFailure as failure:
        return failure.message, failure.position


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 3])
def test_the_plan_is_that_of_the_whole_text(seed: int, shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = shop(shards)
    planner = Planner(catalog.database, catalog)
    taken: list[type] = []
    plan = long_values.LongValues.plan

    def counted(self: long_values.LongValues, *given: object) -> Statement | None:
        found = plan(self, *given)  # type: ignore[arg-type]
        taken.extend([] if found is None else [type(found.plan)])
        return found

    monkeypatch.setattr(base.LongValues, "plan", counted)
    dice, limits = random.Random(seed), random.Random(seed)
    number = 200
    for _ in range(number):
        text = sentence(dice)
        oids = dice.choice([(), (), (20,), (23, 25, 1700), (0, 20)])
        monkeypatch.setattr(long_values, "LONG_CHARACTERS", 1 << 30)
        whole = outcome(planner, text, oids)
        monkeypatch.setattr(long_values, "LONG_CHARACTERS", 0)
        assert outcome(planner, text, oids) == whole, text
        with monkeypatch.context() as patch:
            patch.setattr(long_values, "_MAX_ROW_CHARACTERS", limits.randint(3, 40))
            assert outcome(planner, text, oids) == whole, text
    assert len(taken) > number // 8
    assert shards == 1 or min(taken.count(kind) for kind in (Single, SplitInsert, Scatter, Filled)) > 1


def test_a_parameter_that_is_none_is_no_key() -> None:
    catalog = shop(3)
    (statement,) = Planner(catalog.database, catalog).plan("insert into customers (id) values ($0), ($1)")
    assert isinstance(statement.plan, Filled)  # a shard is asked what it is, and says that there is none
