"""CPU of process trees, from lines of /proc and from a real process."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.process import TICKS_PER_SECOND, Stat, add_up, parse_busy, parse_stat, snapshot

LINE = (
    "4711 (a) b (c)) S 12 4711 4711 0 -1 4194560 1000 0 0 0 250 125 30 15 20 0 1 0 1234567 50000000 321 "
    "18446744073709551615 1 1 0 0 0 0 0 16781312 134217730 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)


def test_a_name_with_brackets_and_blanks_is_no_trouble() -> None:
    assert parse_stat(LINE) == Stat(pid=4711, parent=12, user=280, system=140, resident_pages=321)


def test_a_tree_is_added_up_and_strangers_are_not() -> None:
    stats = [
        Stat(10, 1, 100, 10, 0),
        Stat(11, 10, 20, 2, 0),
        Stat(12, 11, 3, 1, 0),
        Stat(20, 1, 5000, 5000, 0),
    ]
    usage = add_up(stats, [10])
    assert (usage.user_s, usage.system_s) == (123 / TICKS_PER_SECOND, 13 / TICKS_PER_SECOND)


def test_a_root_below_another_counts_once() -> None:
    stats = [Stat(10, 1, 100, 0, 0), Stat(11, 10, 20, 0, 0)]
    assert add_up(stats, [10, 11]).user_s == 120 / TICKS_PER_SECOND


def test_a_root_that_is_gone_counts_nothing() -> None:
    assert add_up([Stat(10, 1, 100, 0, 0)], [99]).cpu_s == 0


def test_idle_waiting_and_stolen_time_is_not_busy() -> None:
    assert parse_busy("cpu  100 2 30 100000 5000 4 6 70000 0 0") == 142


def test_the_work_of_a_dead_child_is_found_with_its_parent() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = add_up(snapshot(), [os.getpid()])
    subprocess.run([sys.executable, "-c", burn], check=True)
    used = add_up(snapshot(), [os.getpid()]).since(before)
    assert used.cpu_s >= 0.28
