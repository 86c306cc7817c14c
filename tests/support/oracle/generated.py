"""Runs generated statements on one Postgres and on the proxy, and compares.

Groups that leave nothing behind go out many in one packet. What is committed goes step by step: nothing happens on the
one that was refused on the other, so that both go on with the same rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oracle.answers import Answer, Asker, frames
from oracle.compare import Kind, compare
from oracle.generator.groups import End, Group, Made, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oracle.generator.groups import Generator

SEVERAL = 12  # groups in one packet


@dataclass(slots=True)
class Outcome:
    """How statements ended: answered with rows, without, as a change; failed alike; refused; DIFFERENT."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    configurations: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)  # one statement for each refusal

    def add(self, other: Outcome) -> None:
        """Take in another outcome."""
        self.counts += other.counts
        self.refusals += other.refusals
        self.failures += other.failures
        self.configurations += other.configurations
        self.differences += other.differences
        self.examples = {**other.examples, **self.examples}

    @property
    def statements(self) -> int:
        """How many statements were compared."""
        return sum(self.counts.values())


class Comparison:
    """Compares one schema's statements."""

    def __init__(self, generator: Generator, one: Asker, proxy: Asker, shards: int) -> None:
        self.outcome = Outcome()
        self._generator = generator
        self._one, self._proxy = one, proxy
        self._shards = shards
        self._parted = False  # the two hold different rows: nothing that follows can be compared

    def run(self, count: int) -> Outcome:
        """Compare ``count`` statements, and all tables at the end."""
        waiting: list[Group] = []
        while self._generator.number < count and not self._parted:
            group = self._generator.group()
            if group.end is End.NOTHING:
                waiting.append(group)
                if len(waiting) < SEVERAL:
                    continue
            self._together(waiting)
            waiting = []
            if group.end is End.ASKED:
                self._asked(group)
            elif group.end is End.COMMIT:
                self._committed(group)
        self._together(waiting)
        self._look_at_all()
        return self.outcome

    def _look_at_all(self) -> None:
        generator = self._generator
        where, marks = f"seed {generator.seed}, at the end", frozenset({"equal values"})
        looks = [Step(Made(where, generator.look(table), marks), counts=False) for table in generator.schema.tables]
        self._judge(looks, *self._ask(looks))

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, steps: Sequence[Step]) -> tuple[list[Answer], list[Answer], dict[int, Answer]]:
        """Ask both at once; the third: the oracle's answers to all rows, by step."""
        packet = b"".join(frames(step.case, step.mode) for step in steps)
        extras = {at: step for at, step in enumerate(steps) if step.extra is not None}
        self._proxy.send(packet)
        self._one.send(packet + b"".join(frames(step.extra, step.mode) for step in extras.values() if step.extra))
        expected = self._one.read_all(len(steps) + len(extras))
        more = dict(zip(extras, expected[len(steps) :], strict=True))
        return expected[: len(steps)], self._proxy.read_all(len(steps)), more

    def _together(self, groups: Sequence[Group]) -> None:
        """Groups that leave nothing behind, in one packet."""
        steps = [step for group in groups for step in group.steps]
        if not steps:
            return
        expected, got, more = self._ask(steps)
        at = 0
        for group in groups:
            count = len(group.steps)
            extra = {place - at: answer for place, answer in more.items() if at <= place < at + count}
            self._judge(group.steps, expected[at : at + count], got[at : at + count], extra)
            at += count

    def _asked(self, group: Group) -> None:
        """Ask the proxy first; what it refuses is not done on the oracle."""
        first, *looks = group.steps
        answer = self._proxy.ask(first.case, first.mode)
        if answer.failed and answer.sqlstate in {"0A000", "53400"}:
            self._judge([first], [Answer()], [answer])
            return
        expected = self._one.ask(first.case, first.mode)
        if not self._judge([first], [expected], [answer]):
            self._parted = not (answer.failed and expected.failed)
            return
        if looks and not self._judge(looks, *self._ask(looks)):
            self._parted = True

    def _committed(self, group: Group) -> None:
        """Commit if everything was equal."""
        *steps, commit = group.steps
        if self._judge(steps, *self._ask(steps)):
            self._parted = not self._judge([commit], *self._ask([commit]))
        else:
            for asker in (self._one, self._proxy):
                asker.run("rollback")

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(
        self,
        steps: Sequence[Step],
        expected: Sequence[Answer],
        got: Sequence[Answer],
        more: dict[int, Answer] | None = None,
    ) -> bool:
        """Count and note; returns whether all was equal. After a refusal nothing counts until its savepoint."""
        good, skipping = True, False
        savepoints: set[str] = set()
        for at, (step, mine, theirs) in enumerate(zip(steps, expected, got, strict=True)):
            words = step.case.sql.split()
            if skipping:
                skipping = not (words[:2] == ["rollback", "to"] and words[2] in savepoints)
                continue
            if words[0] == "savepoint":
                savepoints.add(words[1])
            verdict = compare(step.case, mine, theirs, (more or {}).get(at))
            if verdict.kind is not Kind.EQUAL:
                good, skipping = False, True
            if verdict.kind is Kind.DIFFERENT:
                self._note(step, verdict.note)
            if step.counts:
                self._count(step, mine, verdict.kind, verdict.note)
                if mine.failed and theirs.failed and verdict.kind is Kind.EQUAL and mine.sqlstate != theirs.sqlstate:
                    self.outcome.failures["another row's error (21, 22, 23)"] += 1
        return good

    def _note(self, step: Step, note: str) -> None:
        case = step.case
        values = f"\n    with {[(value.text, value.oid) for value in case.values]}" if case.values else ""
        found = f"{case.where} [{self._shards} shards, {step.mode}]\n    {case.sql}{values}\n    {note}"
        self.outcome.differences.append(found)
        print(found, flush=True)  # noqa: T201 - a long run tells of it at once

    def _count(self, step: Step, mine: Answer, kind: Kind, note: str) -> None:
        outcome = self.outcome
        outcome.configurations[f"{self._shards} shards, {step.mode}"] += 1
        if kind is Kind.REFUSED:
            outcome.counts["refused"] += 1
            outcome.refusals[note] += 1
            outcome.examples.setdefault(note, f"{step.case.where}: {step.case.sql}")
        elif kind is Kind.DIFFERENT:
            outcome.counts["DIFFERENT"] += 1
        elif mine.failed:
            outcome.counts["failed alike"] += 1
            outcome.failures[mine.sqlstate] += 1
        elif mine.columns is None:
            outcome.counts["changed" if not mine.tag.endswith(" 0") else "changed nothing"] += 1
        else:
            outcome.counts["rows" if mine.rows else "no rows"] += 1
