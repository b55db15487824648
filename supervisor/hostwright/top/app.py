"""The screen of `top`. What it shows is in `model.py`; what it does goes through `daemon.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from hostwright.cli.output import cell, duration, visible
from hostwright.events.client import Connected, Happened, Lost
from hostwright.top import cells
from hostwright.top.daemon import Daemon
from hostwright.top.dialogs import ConfirmDialog, DecisionDialog
from hostwright.top.model import Model
from hostwright_kit.approvals import Approval
from hostwright_kit.errors import HostError

DRAW_SECONDS = 0.5
STATUS_SECONDS = 1.0
PENDING_SECONDS = 5.0
LOG_LINES = 60

Table = DataTable[Text | str]


class Top(App[None]):
    """Servers, calls in flight, waiting approvals, and the log of the selected server."""

    TITLE = "hostwright top"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "act('start')", "start"),
        Binding("x", "act('stop')", "stop"),
        Binding("r", "act('restart')", "restart"),
        Binding("a", "decide(True)", "approve"),
        Binding("d", "decide(False)", "deny"),
        Binding("tab", "app.focus_next", "next table"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.model = Model()
        self._daemon = daemon
        self._log_of = ""

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static(id="head")
        for name, title in (
            ("servers", "servers (c/s: calls a second; p50, p95: milliseconds)"),
            ("calls", "calls in flight"),
            ("approvals", "waiting for approval"),
        ):
            table: Table = DataTable(id=name, cursor_type="row", cell_padding=0)
            table.border_title = title
            yield table
        log = Static(id="log")
        log.border_title = "log"
        yield log
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to listen and to look."""
        for name, columns in (
            ("servers", cells.SERVERS),
            ("calls", cells.CALLS),
            ("approvals", cells.APPROVALS),
        ):
            table = self._table(name)
            for column in columns:
                # The blank between two columns belongs to the left one.
                table.add_column(column.label, key=column.name, width=column.width + 1)
        self._table("servers").focus()
        self._listen()
        self.set_interval(DRAW_SECONDS, self.draw)
        self.set_interval(STATUS_SECONDS, self._look)
        self.set_interval(PENDING_SECONDS, self._look_at_pending)
        self._look_at_pending()
        self.on_resize()

    def on_resize(self) -> None:
        """The last column, which may be long, takes what the others leave."""
        for name in ("calls", "approvals"):
            table = self._table(name)
            if not table.columns:
                return  # before anything is there
            *others, last = table.columns.values()
            taken = sum(one.get_render_width(table) for one in others)
            last.width = max(15, self.size.width - taken)
            table.clear()
        self.draw()

    # -- what comes in ---------------------------------------------------------------------------

    @work(group="listen")
    async def _listen(self) -> None:
        async with aclosing(self._daemon.events(follow=True)) as messages:
            async for message in messages:
                match message:
                    case Connected():
                        self.model.connected()
                        self._look()
                    case Lost(why):
                        self.model.lost(why)
                    case Happened():
                        self.model.happened(message)
                        if message.kind.startswith(("server.", "safety.")):
                            self._look()
                        elif message.kind.startswith("approval."):
                            self._look_at_pending()

    @work(exclusive=True, group="look")
    async def _look(self) -> None:
        if self.model.away is None:
            try:
                self.model.daemon = await self._daemon.status()
            except HostError as error:
                # The stream says so as well, a moment later, and tries again.
                self.log.debug(error.message)
                return
        if name := self.selected_server:
            lines = await self._daemon.tail(name, LOG_LINES)
            self._show_log(name, lines)
        self.draw()

    @work(exclusive=True, group="pending")
    async def _look_at_pending(self) -> None:
        try:
            self.model.approvals = await self._daemon.pending()
        except HostError as error:
            self._say(error.message, bad=True)
        self.draw()

    # -- what is shown ---------------------------------------------------------------------------

    def draw(self) -> None:
        """Bring the screen up to date."""
        if not self.is_running or not self.screen_stack:
            return
        now = time.time()
        base = self.screen_stack[0]
        base.query_one("#head", Static).update(self._headline())
        base.set_class(self.model.away is not None, "away")
        fill(
            self._table("servers"),
            [(row.status.name, cells.server_cells(row)) for row in self.model.rows(now)],
        )
        calls = self.model.calls()
        fill(self._table("calls"), [(one.id, cells.call_cells(one, now)) for one in calls])
        self._table("calls").border_title = f"calls in flight ({len(calls)})"
        asked = self.model.approvals
        fill(
            self._table("approvals"),
            [(one.id, cells.approval_cells(one, _seconds(one.expires) - now)) for one in asked],
        )
        self._table("approvals").border_title = f"waiting for approval ({len(asked)})"

    def _headline(self) -> Text:
        model, daemon = self.model, self.model.daemon
        if model.away is not None:
            why = visible(model.away)
            return Text(f"hostwright  ✗ the daemon is away ({why}); trying again", style="bold")
        if daemon is None:
            return Text("hostwright  …")
        if daemon.panic is not None:
            words = f"hostwright  ✗ STOPPED (hostwright lift)  {daemon.panic.sentence()}"
            return cell(words, style="bold red")
        up = duration(daemon.uptime_seconds)
        words = f"hostwright  pid {daemon.pid}  up {up}  policy {daemon.profile}  {daemon.url}"
        return cell(words, style="bold")

    def _show_log(self, name: str, lines: Sequence[str]) -> None:
        box = self.screen_stack[0].query_one("#log", Static)
        box.border_title = f"log of {name}"
        room = max(1, box.size.height)
        shown = Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text(visible(line)) for line in lines[-room:]
        )
        shown.no_wrap, shown.overflow = True, "ellipsis"
        box.update(shown if lines else Text("nothing yet", style="dim"))

    # -- what is chosen and done -----------------------------------------------------------------

    @property
    def selected_server(self) -> str | None:
        """The one that the keys act on."""
        return _selected(self._table("servers"))

    @property
    def selected_approval(self) -> Approval | None:
        """The one that is approved or denied."""
        chosen = _selected(self._table("approvals"))
        return next((one for one in self.model.approvals if one.id == chosen), None)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another server was chosen: show its log."""
        if event.data_table.id == "servers" and event.row_key.value != self._log_of:
            self._log_of = event.row_key.value or ""
            self._look()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a request opens it."""
        if event.data_table.id == "approvals":
            self.action_decide(True)

    def action_act(self, action: str) -> None:
        """Start, stop or restart the selected server, after a question."""
        if (name := self.selected_server) is None:
            self._say("There is no server to choose.", bad=True)
            return
        after = "" if action == "start" else " Its calls in flight fail."

        def answered(yes: bool | None) -> None:
            if yes:
                self._say(f"{action} {name} …")
                self._act(name, action)

        self.push_screen(ConfirmDialog(f"{action.capitalize()} {name}?{after}"), answered)

    @work(group="act")
    async def _act(self, name: str, action: str) -> None:
        try:
            self._say(await self._daemon.act(name, action))
        except HostError as error:
            self._say(f"{error.message} {error.fix}", bad=True)
        self._look()

    def action_decide(self, grant: bool) -> None:
        """Ask for the PIN, then approve or deny the selected request."""
        if (asked := self.selected_approval) is None:
            self._say("Nothing waits for approval.")
            return

        async def decide(pin: str) -> None:
            await self._daemon.decide(asked.id, pin, grant=grant)

        def decided(done: bool | None) -> None:
            if done:
                self._say(
                    f"{asked.id} granted: the same call, repeated, runs once."
                    if grant
                    else f"{asked.id} denied."
                )
            self._look_at_pending()

        self.push_screen(DecisionDialog(asked, decide, grant=grant), decided)

    def _say(self, words: str, *, bad: bool = False) -> None:
        self.notify(visible(words), markup=False, severity="error" if bad else "information")

    def _table(self, name: str) -> Table:
        return self.screen_stack[0].query_one(f"#{name}", DataTable)


def fill(table: Table, rows: Sequence[tuple[str, cells.Cells]]) -> None:
    """Make these the rows, touching only what changed; the chosen row stays chosen."""
    keys = [key for key, _ in rows]
    if [row.value for row in table.rows] == keys:
        columns = list(table.columns)
        for key, new in rows:
            for column, value in zip(columns, new, strict=True):
                if table.get_cell(key, column) != value:
                    table.update_cell(key, column, value)
        return
    chosen = _selected(table)
    table.clear()
    for key, new in rows:
        table.add_row(*new, key=key)
    if chosen in keys:
        table.move_cursor(row=keys.index(chosen))


def _selected(table: Table) -> str | None:
    if not table.is_valid_coordinate(table.cursor_coordinate):
        return None
    return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
