"""A run's report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oracle.compare import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oracle.corpus import StatementFile
    from oracle.runner import Report


def lines(report: Report, files: Sequence[StatementFile]) -> Iterator[str]:
    """Yield a table by file, refusals by id, and every difference."""
    width = max((len(file.name) for file in files), default=10)
    yield f"{'':{width}}  statements  equal  refused  skipped  DIFFERENT"
    for file in files:
        found = report.counts(file.name + ":")
        yield _row(f"{file.name:{width}}", sum(found.values()), found)
    total = report.counts()
    yield _row(f"{'all':{width}}", sum(total.values()), total)
    yield ""
    for name, cases in sorted(report.refusals.items(), key=lambda item: -len(item[1])):
        yield f"refused {len(cases):5} by {name}"
    yield ""
    for difference in report.differences:
        yield f"DIFFERENT {difference}"
    count = sum(total.values()) or 1
    yield (
        f"{report.comparisons} comparisons of {count} statements: {total[Kind.DIFFERENT]} different, "
        f"{100 * total[Kind.REFUSED] / count:.1f} % refused"
    )


def _row(name: str, count: int, found: dict[Kind, int]) -> str:
    numbers = [found.get(kind, 0) for kind in (Kind.EQUAL, Kind.REFUSED, Kind.SKIPPED, Kind.DIFFERENT)]
    return f"{name}  {count:10}  {numbers[0]:5}  {numbers[1]:7}  {numbers[2]:7}  {numbers[3]:9}"


def refused(report: Report) -> Iterator[str]:
    """Yield every refused statement under its refusal's id."""
    for name, cases in sorted(report.refusals.items(), key=lambda item: -len(item[1])):
        yield f"## {name}: {len(cases)}"
        for where, sql in cases.items():
            yield f"{where}: {' '.join(sql.split())}"
        yield ""
