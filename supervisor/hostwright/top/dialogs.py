"""The two questions that `top` asks: the PIN for a decision, and yes or no."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from hostwright.cli.output import cell, visible
from hostwright_kit.approvals import Approval
from hostwright_kit.errors import HostError

Decide = Callable[[str], Awaitable[None]]


class DecisionDialog(ModalScreen[bool]):
    """Shows exactly what is asked and takes the PIN; closes when the decision is on record."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]
    AUTO_FOCUS = "#pin"

    def __init__(self, asked: Approval, decide: Decide, *, grant: bool) -> None:
        super().__init__()
        self._asked = asked
        self._decide = decide
        self._grant = grant

    def compose(self) -> ComposeResult:
        """The request, the field, and what went wrong."""
        asked = self._asked
        with Vertical(id="dialog") as box:
            box.border_title = "Approve this one call?" if self._grant else "Deny this call?"
            yield Static(
                Text.assemble(
                    (f"{asked.id}  ", "bold"), (visible(f"{asked.server}.{asked.tool}"), "bold")
                )
            )
            yield Static(cell(f"asked by {asked.caller} ({asked.reason})"))
            with VerticalScroll(id="arguments"):
                yield Static(Text(readable(asked.arguments)))
            yield Input(password=True, placeholder="the owner's PIN", id="pin")
            yield Static("", id="problem")
            word = "approve" if self._grant else "deny"
            yield Static(f"Enter: {word}   Tab: read the arguments   Esc: leave it", id="keys")

    def action_cancel(self) -> None:
        """Nothing is decided."""
        self.dismiss(False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Try the PIN, which is in the field no longer than that."""
        pin = event.value
        event.input.clear()
        if pin and not event.input.disabled:
            event.input.disabled = True
            self.query_one("#problem", Static).update("checking …")
            self._try(pin)

    @work(exclusive=True)
    async def _try(self, pin: str) -> None:
        try:
            await self._decide(pin)
        except HostError as error:
            problem = Text(visible(f"✗ {error.message} {error.fix}"), style="bold")
            self.query_one("#problem", Static).update(problem)
            field = self.query_one(Input)
            field.disabled = False
            field.focus()
        else:
            self.dismiss(True)


class ConfirmDialog(ModalScreen[bool]):
    """Yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question and the keys."""
        with Vertical(id="dialog"):
            yield Static(cell(self._question))
            yield Static("\ny: yes   n: no", id="keys")

    def action_answer(self, answer: bool) -> None:
        """Close with it."""
        self.dismiss(answer)


def readable(arguments: str) -> str:
    """Canonical JSON with one member a line; nothing in it can drive the terminal or hide."""
    return visible(json.dumps(json.loads(arguments), indent=2, ensure_ascii=False), lines=True)
