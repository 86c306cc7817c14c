"""Runs statement files on every ground and counts what came of it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oracle.answers import MODES, Answer, frames
from oracle.compare import Kind, Verdict, compare
from oracle.corpus import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oracle.answers import Asker
    from oracle.corpus import Group, StatementFile

_WORD = re.compile(r"[a-z_][a-z0-9_.]*")
_SKIPPED = Verdict(Kind.SKIPPED, "after a refusal")


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that is not what one Postgres gives."""

    where: str
    shards: int
    mode: str
    sql: str
    note: str

    def __str__(self) -> str:
        return f"{self.where} [{self.shards} shards, {self.mode}]\n    {self.sql}\n    {self.note}"


@dataclass(slots=True)
class Report:
    """What came of a run. A statement counts by the worst of its verdicts over all numbers of shards and modes."""

    worst: dict[str, Kind] = field(default_factory=dict)
    refusals: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    differences: list[Difference] = field(default_factory=list)
    comparisons: int = 0

    def note(self, case: Case, shards: int, mode: str, verdict: Verdict) -> None:
        """Count one comparison."""
        self.comparisons += 1
        before = self.worst.get(case.where, Kind.EQUAL)
        ranks = [Kind.EQUAL, Kind.SKIPPED, Kind.REFUSED, Kind.DIFFERENT]
        self.worst[case.where] = max(before, verdict.kind, key=ranks.index)
        if verdict.kind is Kind.REFUSED:
            self.refusals[verdict.note].setdefault(case.where, case.sql)
        if verdict.kind is Kind.DIFFERENT:
            self.differences.append(Difference(case.where, shards, mode, case.sql, verdict.note))

    def counts(self, prefix: str = "") -> Counter[Kind]:
        """How many statements ended how."""
        return Counter(kind for where, kind in self.worst.items() if where.startswith(prefix))


class Runner:
    """Compares the proxies' answers with the oracle's."""

    def __init__(
        self,
        one: Asker,
        proxies: dict[int, Asker],
        tables: Iterable[str],
        modes: Sequence[str],
        *,
        in_turn: bool = False,
    ) -> None:
        """Take connections; ``in_turn``: each statement in one of the modes only, one after the other."""
        self.one = one
        self.proxies = proxies
        self.modes = [mode for mode in MODES if mode in modes]
        self.report = Report()
        self._tables = frozenset(tables)
        self._in_turn = in_turn
        self._asked = 0

    def run(self, file: StatementFile) -> None:
        """Run every statement of a file in every mode."""
        for asker in (self.one, *self.proxies.values()):
            asker.set_path(file.search_path)
        for group in file.groups:
            for mode in self._modes_of(group):
                self._run_group(file, group, mode)
        for asker in (self.one, *self.proxies.values()):
            asker.set_path("")

    def _modes_of(self, group: Group) -> Sequence[str]:
        if not self._in_turn:
            return self.modes
        usable = [mode for mode in self.modes if mode != "simple"] if group.cases[0].values else self.modes
        self._asked += 1
        return [usable[self._asked % len(usable)]]

    def _run_group(self, file: StatementFile, group: Group, mode: str) -> None:
        if group.script:
            self._run_script(group, mode)
            return
        (case,) = group.cases
        if case.values and mode == "simple":
            return
        if file.writes:
            self._run_write(case, mode, file)
            return
        answers = self._ask_all(case, mode)
        everything = self.one.ask(Case("", case.without_limit), mode) if "any limit" in case.marks else None
        self._compare(case, mode, answers, everything)

    def _ask_all(self, case: Case, mode: str) -> tuple[Answer, dict[int, Answer]]:
        """Ask everywhere at once: the servers work side by side."""
        packet = frames(case, mode)
        for asker in (self.one, *self.proxies.values()):
            asker.send(packet)
        expected = self.one.read()
        return expected, {count: asker.read() for count, asker in self.proxies.items()}

    def _compare(
        self, case: Case, mode: str, answers: tuple[Answer, dict[int, Answer]], everything: Answer | None = None
    ) -> dict[int, Verdict]:
        expected, got = answers
        verdicts = {count: compare(case, expected, answer, everything) for count, answer in got.items()}
        for count, verdict in verdicts.items():
            self.report.note(case, count, mode, verdict)
        return verdicts

    def _run_script(self, group: Group, mode: str) -> None:
        """Statements in a row; after a refusal the rest is run, and not compared."""
        lost: set[int] = set()
        for case in group.cases:
            chosen = "extended" if case.values and mode == "simple" else mode
            expected, got = self._ask_all(case, chosen)
            for count, answer in got.items():
                if count in lost:
                    self.report.note(case, count, mode, _SKIPPED)
                    continue
                verdict = compare(case, expected, answer)
                self.report.note(case, count, mode, verdict)
                if verdict.kind is not Kind.EQUAL:
                    lost.add(count)

    def _run_write(self, case: Case, mode: str, file: StatementFile) -> None:
        """A statement in a block that is rolled back, and what its tables hold before that."""
        words = set(_WORD.findall(case.sql.lower()))
        prefixes = ("", *(f"{name.strip()}." for name in file.search_path.split(",") if name.strip()))
        named = {word for word in words if any(prefix + word in self._tables for prefix in prefixes)}
        tables = sorted(named.union(file.looks))
        looks = [Case(case.where, f"select * from {table}") for table in tables]
        steps = [Case("", "begin"), case, *looks, Case("", "rollback")]
        ways = ["simple", mode, *("simple" for _ in looks), "simple"]
        packet = b"".join(frames(step, way) for step, way in zip(steps, ways, strict=True))
        for asker in (self.one, *self.proxies.values()):
            asker.send(packet)
        expected = self.one.read_all(len(steps))
        for count, asker in self.proxies.items():
            got = asker.read_all(len(steps))
            verdict = compare(case, expected[1], got[1])
            self.report.note(case, count, mode, verdict)
            if verdict.kind is not Kind.EQUAL or expected[1].failed or "values" in case.marks:
                continue
            for look, mine, theirs in zip(looks, expected[2:-1], got[2:-1], strict=True):
                seen = compare(look, mine, theirs)
                if seen.kind is Kind.DIFFERENT:
                    seen = Verdict(Kind.DIFFERENT, f"afterwards, {look.sql}: {seen.note}")
                if seen.kind is not Kind.EQUAL:
                    self.report.note(case, count, mode, seen)
