"""Which of several servers is the primary, by what they say."""

from __future__ import annotations

import pytest

from proxy.shards.hosts import HostAddress, NoPrimaryError, Place, Progress, Said, choose, report

A, B, C = (HostAddress(host, 5432) for host in "abc")


def primary(timeline: int = 1, system: int = 7) -> Said:
    return Said(in_recovery=False, read_only=False, timeline=timeline, system=system, lsn=100)


def standby(timeline: int = 1, system: int = 7) -> Said:
    return Said(in_recovery=True, read_only=False, timeline=timeline, system=system, lsn=90, follows=timeline)


DEMOTED = Said(in_recovery=False, read_only=True, timeline=1, system=7, lsn=100)


@pytest.mark.parametrize(
    ("said", "place", "found"),
    [
        ({A: primary(), B: standby()}, Place(), A),
        ({A: standby(), B: primary()}, Place(), B),
        ({B: primary(2)}, Place(last=A, timeline=1, system=7), B),
        # An old primary that runs still, or again.
        ({A: primary(1), B: primary(2)}, Place(last=A, timeline=1, system=7), B),
        # One that lost its place by a setting, as some services do it.
        ({A: DEMOTED, B: primary()}, Place(last=A, timeline=1, system=7), B),
        # Two on one timeline: whoever is known stays.
        ({A: primary(2), B: primary(2)}, Place(last=B, timeline=2, system=7), B),
        # What others have noted is as old as this, or of a cluster that was here before.
        ({A: primary(2)}, Place(noted={7: 2, 6: 5}), A),
        # A server of another cluster in the list.
        ({A: primary(), B: primary(9, system=8)}, Place(last=A, timeline=1, system=7), A),
    ],
)
def test_the_primary_is_found(said: dict[HostAddress, Said], place: Place, found: HostAddress) -> None:
    assert choose(said, place) == found


@pytest.mark.parametrize(
    ("said", "place", "why"),
    [
        ({}, Place(), "none of those that answer"),
        ({A: standby(), B: standby()}, Place(), "none of those that answer"),
        ({A: DEMOTED, B: standby()}, Place(), "none of those that answer"),
        ({A: primary(1)}, Place(last=B, timeline=2, system=7), "timeline 2 has been seen, and only an old primary"),
        # What a standby has seen counts, also for a proxy that has just been started.
        ({A: primary(1), C: standby(2)}, Place(), "timeline 2 has been seen, and only an old primary"),
        # What other proxies have seen counts as well, if it was of this cluster.
        ({A: primary(2)}, Place(noted={7: 3}), "timeline 3 has been seen, and only an old primary"),
        ({A: primary(2)}, Place(last=A, timeline=2, system=7, noted={7: 3}), "only an old primary"),
        ({A: primary(2), B: primary(2)}, Place(), "a:5432 and b:5432 both take writes on timeline 2"),
        ({A: primary(2), B: primary(2)}, Place(last=C, timeline=1, system=7), "both take writes"),
        ({A: primary(), B: standby(system=8)}, Place(), "system identifiers differ"),
        ({B: primary(9, system=8)}, Place(last=A, timeline=1, system=7), "none of those that answer"),
    ],
)
def test_no_primary_is_better_than_a_wrong_one(said: dict[HostAddress, Said], place: Place, why: str) -> None:
    with pytest.raises(NoPrimaryError, match=why):
        choose(said, place)


def test_what_is_told_of_each() -> None:
    said = {A: primary(2), B: standby(), C: DEMOTED}
    assert report(said, {}, [A, B, C]) == (
        "a:5432: a primary on timeline 2; b:5432: a standby on timeline 1; c:5432: read only on timeline 1"
    )
    assert report({}, {A: "no"}, [A, HostAddress("::1", 1)]) == "a:5432: no; [::1]:1: not asked"


def at(lsn: int, *, follows: int = 1, recovering: bool = True, system: int = 7) -> Said:
    return Said(in_recovery=recovering, read_only=False, timeline=1, system=system, lsn=lsn, follows=follows)


def test_a_standby_is_as_good_as_the_newest_sample_that_it_has_passed() -> None:
    progress = Progress()
    progress.note(1.0, A, {A: at(100, recovering=False), B: at(100), C: at(90)})
    assert progress.complete_at == {B: 1.0}, "nobody knows how old position 90 is"
    assert progress.replayed == {B: 100, C: 90}
    progress.note(2.0, A, {A: at(200, recovering=False), B: at(150), C: at(100)})
    assert progress.complete_at == {B: 1.0, C: 1.0}
    progress.note(3.0, A, {A: at(200, recovering=False), B: at(200)})
    assert progress.complete_at == {B: 3.0, C: 1.0}, "who does not answer has what he had"


@pytest.mark.parametrize(
    "stray",
    [at(999, follows=0), at(999, follows=2), at(999, system=8), at(999, recovering=False)],
    ids=["follows nobody", "follows another timeline", "another cluster", "promoted"],
)
def test_who_does_not_follow_this_primary_is_no_replica(stray: Said) -> None:
    progress = Progress()
    progress.note(1.0, A, {A: at(100, recovering=False), B: stray})
    assert not progress.complete_at


def test_nothing_is_known_of_a_server_that_may_have_been_restarted_or_of_another_primarys() -> None:
    progress = Progress()
    said = {A: at(100, recovering=False), B: at(100)}
    progress.note(1.0, A, said)
    progress.forget(B)
    assert not progress.complete_at
    progress.note(2.0, A, said)
    progress.note(3.0, A, {A: primary(2), B: at(100)})
    assert not progress.complete_at, "the same address on another timeline"
    progress.note(4.0, A, {A: primary(2), B: standby(2)})
    progress.clear()
    assert not progress.complete_at
    assert not progress.replayed
