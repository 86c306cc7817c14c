"""Run the demo under some load and make pictures of it: ``python -m bench.screens``, or ``make screens``.

Writes docs/images/top.svg, a screen of ``pgchorus top``, and docs/images/dashboard.png, the panels of conf/grafana over
what /metrics said each second. Everything else is in a temporary directory and goes at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bench.screens.panels import draw
from bench.screens.series import Samples
from proxy.demo.binaries import find_installation
from proxy.demo.embedded import free_port
from proxy.top.screen import Top
from proxy.top.source import Console

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
SCRIPTS = ROOT / "bench" / "scripts"
WINDOW_S = 8.0
SIZE = (150, 46)
READY_S = 180.0
#: What the shop's clients do: one shard, several, both at once, what is refused and what is an error.
SHOP = r"""
\set c random(1, 190)
\set d random(1, 190)
\set low least(:c, :d)
\set high greatest(:c, :d)
SELECT name, credit FROM customers WHERE customer_id = :c;
SELECT o.order_id, sum(i.quantity * i.price) FROM orders o JOIN order_items i USING (customer_id, order_id)
    WHERE o.customer_id = :d GROUP BY o.order_id ORDER BY 2 DESC;
SELECT country, count(*) FROM customers GROUP BY country ORDER BY count(*) DESC LIMIT 3;
BEGIN;
UPDATE customers SET credit = credit - 1 WHERE customer_id = :low;
UPDATE customers SET credit = credit + 1 WHERE customer_id = :high;
COMMIT;
"""
MISTAKES = ("SELECT 1 / 0", "CREATE UNIQUE INDEX ON customers (name)", "SELECT no_such_column FROM customers")
#: An open block that waits, to be seen.
IDLE = "BEGIN; UPDATE customers SET credit = credit WHERE customer_id > 195"


def program(name: str) -> str:
    """Return the path of one of the programs that the demo's servers came with."""
    return find_installation().program(name)


class Demo:
    """A demo in a directory of its own."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.port = free_port([])
        command = [sys.executable, "-m", "proxy", "demo", "--port", str(self.port), "--data", str(directory / "demo")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        stack.callback(self._stop)
        self.metrics = self._address()

    def dsn(self, database: str) -> str:
        """Return the URL of a database of the proxy."""
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def _address(self) -> str:
        """Wait until it is ready, and return where its metrics are."""
        watch = threading.Timer(READY_S, self._process.kill)
        watch.start()
        try:
            assert self._process.stdout is not None  # noqa: S101 - it is a pipe
            for line in self._process.stdout:
                if line.startswith("Metrics: "):
                    return line.removeprefix("Metrics: ").strip()
        finally:
            watch.cancel()
        msg = "the demo did not start"
        raise RuntimeError(msg)

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def load(demo: Demo, directory: Path, seconds: int, stack: ExitStack) -> None:
    """Begin to load the demo; all ends by itself."""
    pgbench, dsn = program("pgbench"), demo.dsn("postgres")
    subprocess.run([pgbench, "-i", "-s", "2", "-q", dsn], check=True, capture_output=True)
    shop = directory / "shop.sql"
    shop.write_text(SHOP, encoding="utf-8")
    loads = (
        ["-c", "4", "-M", "prepared", "-R", "60", "-b", "tpcb-like"],
        ["-c", "2", "-M", "simple", "-R", "120", "-b", "select-only"],
        ["-c", "2", "-R", "12", "-f", str(shop)],
        ["-c", "1", "-R", "4", "-f", str(SCRIPTS / "scatter.sql")],
    )
    for options in loads:
        begun = subprocess.Popen(
            [pgbench, "-n", "-T", str(seconds), *options, dsn], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(begun.wait)


def mistake(demo: Demo, number: int) -> None:
    """Make a client make one."""
    command = [program("psql"), "-X", "-q", demo.dsn("postgres"), "-c", MISTAKES[number % len(MISTAKES)]]
    subprocess.run(command, check=False, capture_output=True)


class Scraper:
    """Asks the metrics each second until told to stop, and makes a mistake now and then."""

    def __init__(self, demo: Demo) -> None:
        self.samples = Samples()
        self._demo = demo
        self._stop = threading.Event()
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def until_more(self, count: int) -> None:
        """Return when so many more answers have come."""
        with self._more:
            enough = len(self.samples.moments) + count
            if not self._more.wait_for(lambda: len(self.samples.moments) >= enough, READY_S):
                msg = "the demo does not answer"
                raise RuntimeError(msg)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            begun = time.monotonic()
            with urllib.request.urlopen(self._demo.metrics) as answer:  # noqa: S310 - of our own demo
                page = answer.read().decode()
            with self._more:
                self.samples.add(begun, page)
                self._more.notify_all()
            number += 1
            if number % 3 == 0:
                mistake(self._demo, number // 3)
            self._stop.wait(max(0.0, 1.0 - (time.monotonic() - begun)))


async def look(demo: Demo, scraper: Scraper) -> str:
    """Return a screen of ``pgchorus top``, after some looks at a demo that has gone on in between."""
    app = Top(Console(demo.dsn("pgchorus")), interval_s=2.0)
    async with app.run_test(size=SIZE) as pilot:
        for _ in range(3):
            await asyncio.to_thread(scraper.until_more, 2)
            await app.look()
        await pilot.pause()
        return app.export_screenshot(title="pgchorus top")


def without_fonts(svg: str) -> str:
    """Leave out the fonts that a browser would fetch from elsewhere: it has one of its own."""
    plain = re.sub(r"@font-face\s*\{[^}]*\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    return plain.replace("Fira Code", "ui-monospace, Menlo, Consolas")


def main() -> int:
    """Make the pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench.screens", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long the demo is under load (%(default)s)")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgchorus-screens-")))
        demo = Demo(directory, stack)
        load(demo, directory, options.seconds, stack)
        psql = subprocess.Popen([program("psql"), "-X", "-q", demo.dsn("postgres")], stdin=subprocess.PIPE, text=True)
        stack.callback(psql.wait)
        assert psql.stdin is not None  # noqa: S101 - it is a pipe
        stack.callback(psql.stdin.close)
        psql.stdin.write(IDLE + ";\n")
        psql.stdin.flush()
        with Scraper(demo) as scraper:
            scraper.until_more(options.seconds // 3)
            (IMAGES / "top.svg").write_text(without_fonts(asyncio.run(look(demo, scraper))), encoding="utf-8")
            scraper.until_more(options.seconds // 3)
    caption = f"make screens: {options.seconds} s of load on the demo; rates and quantiles over {WINDOW_S:g} s"
    draw(ROOT / "conf" / "grafana" / "pgchorus.json", scraper.samples, WINDOW_S, IMAGES / "dashboard.png", caption)
    print(f"written: {IMAGES / 'top.svg'}, {IMAGES / 'dashboard.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
