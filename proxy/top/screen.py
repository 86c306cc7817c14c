"""The screen of ``pgchorus top``: five tables under a line of sums, drawn by textual.

Decides how figures look and what keys do. Whoever cannot be asked is said to be, and is asked again.
"""

from __future__ import annotations

import asyncio
from time import monotonic, strftime
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Input, Static

from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.top.figures import VIEWS, Figures, Look, Panel, Row, arranged, figures, shown

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from proxy.top.figures import Summary
    from proxy.top.source import Source

_LEFT: Final = ("shards", "pools")
_RIGHT: Final = ("transactions", "in-doubt")
_BOTTOM: Final = "statements"
_ORDER: Final = ("shards", "pools", "transactions", "in-doubt", "statements")  # as in Figures.panels
_KIB: Final = 1024
_ALARMS: Final = frozenset({"down", "failed"})


class Table(DataTable[Text]):
    """One panel: rows in the order that was asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=True)
        self.sorted_by = ""
        self.reversed = False
        self._made_of: tuple[str, ...] = ()

    def show(self, panel: Panel, wanted: str) -> None:
        """Draw a panel."""
        self.sorted_by = self.sorted_by or panel.sort
        rows = arranged(panel, self.sorted_by, reverse=self.reversed, wanted=wanted)
        self.border_title = f"{panel.title} ({len(rows)})"
        at = self.cursor_row
        self.clear(columns=True)
        for name in panel.columns:
            sign = (" ▴" if self.reversed else " ▾") if name == self.sorted_by else ""
            self.add_column(name + sign, key=name)
        for row in rows:
            self.add_row(*(_cell(row, name) for name in panel.columns))
        self.move_cursor(row=min(at, max(len(rows) - 1, 0)), animate=False)
        self._made_of = panel.columns

    def sort_by_next(self) -> None:
        """Sort by the next column from now on."""
        names = self._made_of
        if names:
            self.sorted_by = names[(names.index(self.sorted_by) + 1) % len(names)]
            self.reversed = False


def _cell(row: Row, name: str) -> Text:
    cell = row[name]
    style = "bold red" if cell in _ALARMS else ""
    return Text(shown(cell), style=style, justify="right" if isinstance(cell, int | float) else "left", no_wrap=True)


class Top(App[None]):
    """The program. ``source`` is asked every ``interval_s`` seconds."""

    TITLE = "pgchorus top"
    CSS = """
    Screen { layout: vertical; }
    #summary { height: 3; padding: 0 1; }
    #upper { height: 45%; }
    #left, #right { width: 1fr; }
    Table { border: round $primary; height: 1fr; }
    Table:focus { border: round $accent; }
    #filter { display: none; dock: bottom; }
    #filter.open { display: block; }
    .zoomed .table-away { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("tab", "app.focus_next", "Next table", show=False),
        Binding("s", "sort", "Sort by next column"),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "All rows", show=False),
        Binding("space", "pause", "Pause"),
        Binding("z", "zoom", "One table"),
    ]

    def __init__(self, source: Source, interval_s: float = 2.0) -> None:
        super().__init__()
        self._source = source
        self._interval_s = interval_s
        self._before: Look | None = None
        self._now: Look | None = None
        self._looking = asyncio.Lock()
        self._paused = False
        self._problem = ""
        self._wanted = ""

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static(id="summary")
        with Horizontal(id="upper"):
            with Vertical(id="left"):
                for name in _LEFT:
                    yield Table(name)
            with Vertical(id="right"):
                for name in _RIGHT:
                    yield Table(name)
        yield Table(_BOTTOM)
        yield Input(placeholder="rows that contain ...", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(f"#{_BOTTOM}", Table).focus()
        self._look_soon()
        self.set_interval(self._interval_s, self._look_soon)

    async def on_unmount(self) -> None:
        """Hang up."""
        await self._source.close()

    # --- looking ----------------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        if not self._paused and not self._looking.locked():  # one that is slow is not asked again meanwhile
            self.run_worker(self.look())

    async def look(self) -> None:
        """Ask once, and draw."""
        try:
            async with self._looking:
                views = {view: await self._source.show(view) for view in VIEWS}
        except (ShardError, ProxyError) as error:
            self._problem = error.fields.message if isinstance(error, ShardError) else error.message
        else:
            self._problem = ""
            self._before, self._now = self._now, Look(monotonic(), views)
        self.draw()

    def draw(self) -> None:
        """Show what was seen last."""
        if self._now is None:
            self.query_one("#summary", Static).update(Text(self._problem or "asking ...", style="bold red"))
            return
        found = figures(self._before, self._now)
        self._show_summary(found)
        for name, panel in zip(_ORDER, found.panels, strict=True):
            self.query_one(f"#{name}", Table).show(panel, self._wanted)

    def _show_summary(self, found: Figures) -> None:
        text = Text()
        text.append("pgchorus ", style="bold")
        text.append(strftime("%H:%M:%S"))
        if self._paused:
            text.append("  paused", style="bold yellow")
        if self._problem:
            text.append(f"  {self._problem}", style="bold red")
        text.append("\n")
        text.append(summary_lines(found.summary))
        self.query_one("#summary", Static).update(text)

    # --- keys -------------------------------------------------------------------------------------------------

    def _focused(self) -> Table:
        return self.focused if isinstance(self.focused, Table) else self.query_one(f"#{_BOTTOM}", Table)

    def action_sort(self) -> None:
        """Sort the table that has the focus by its next column."""
        self._focused().sort_by_next()
        self.draw()

    def action_reverse(self) -> None:
        """Turn its order round."""
        table = self._focused()
        table.reversed = not table.reversed
        self.draw()

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self._paused = not self._paused
        self.draw()

    def action_filter(self) -> None:
        """Ask what rows must contain."""
        field = self.query_one("#filter", Input)
        field.add_class("open")
        field.focus()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def action_zoom(self) -> None:
        """Show the table that has the focus alone, or all again."""
        self.screen.toggle_class("zoomed")
        focused = self._focused()
        for table in self.query(Table):
            table.set_class(table is not focused, "table-away")
        for name in ("left", "right", "upper"):
            box = self.query_one(f"#{name}")
            box.set_class(not box.query(f"#{focused.id}"), "table-away")
        self.query_one("#upper").styles.height = "1fr" if self.screen.has_class("zoomed") else "45%"

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is being typed."""
        self._wanted = event.value
        self.draw()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        """The filter stays; the keys are the tables' again."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("open")
        self.query_one(f"#{_BOTTOM}", Table).focus()
        self.draw()


def summary_lines(summary: Summary) -> str:
    """Return the sums in two lines."""
    states = ", ".join(f"{count} {state}" for state, count in summary.states) or "none open"
    return (
        f"{summary.clients} clients   {shown(summary.transactions_s)} transactions/s   "
        f"{shown(summary.queries_s)} statements/s, mean {shown(summary.query_ms)} ms   "
        f"in {shown(summary.received_s / _KIB)} KiB/s, out {shown(summary.sent_s / _KIB)} KiB/s\n"
        f"transactions: {states}   in doubt: {summary.in_doubt}"
    )
