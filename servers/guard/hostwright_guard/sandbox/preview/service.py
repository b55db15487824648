"""Dry run and commit, as the tools offer them.

A preview runs a command over an overlay of one folder: it sees the folder as it is, and whatever it
changes goes aside. A commit applies exactly what a preview showed, and only while the folder is
still what the preview was made of.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel, Field

from hostwright_guard.sandbox import places
from hostwright_guard.sandbox.holding import Holder, Run
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.preview import tree
from hostwright_guard.sandbox.preview.apply import (
    Applying,
    InPartError,
    changed_meanwhile,
    refuse_what_was_changed,
)
from hostwright_guard.sandbox.preview.changes import Change, NotApplicableError, read_changes
from hostwright_guard.sandbox.preview.store import Previews, Record, new_record, remove_layers
from hostwright_guard.sandbox.results import NetworkAttempt, shown
from hostwright_guard.sandbox.running import Overlay
from hostwright_guard.sandbox.service import SandboxService, refuse_more_than_free
from hostwright_kit.capture import HeadTail, StreamCapture
from hostwright_kit.errors import HostError
from hostwright_kit.previewing import CommitCall

MAX_NAMED = 200


class PreviewResult(BaseModel, frozen=True):
    """What a command would change."""

    preview_id: str
    folder: str
    exit_code: int | None
    timed_out: bool
    stdout: StreamCapture
    stderr: StreamCapture
    changes: list[Change] = Field(description="Parents before children.")
    network: list[NetworkAttempt] = Field(description="What it tried; nothing was let through "
                                          "but allowed domains.")  # fmt: skip
    commit: CommitCall | None = Field(
        description="Call sandbox_commit with exactly this; none: there is nothing to apply."
    )
    note: str | None = Field(default=None, description="Why it cannot be applied, if so.")


class CommitResult(BaseModel, frozen=True):
    """What was applied."""

    preview_id: str
    folder: str
    applied: int


def lines(changes: tuple[Change, ...]) -> list[str]:
    """One line per change: what the owner reads before it is applied."""
    named = [f"{one.action} {one.kind} {_printable(one.path)}" for one in changes[:MAX_NAMED]]
    more = len(changes) - len(named)
    return [*named, f"and {more} more"] if more > 0 else named


def _printable(text: str) -> str:
    """A name cannot draw a line of its own, or turn one round."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PreviewService:
    """What the tools call."""

    def __init__(
        self, sandbox: SandboxService, holder: Holder, previews: Previews, roots: tuple[Path, ...]
    ) -> None:
        self._sandbox = sandbox
        self._holder = holder
        self._previews = previews
        self._roots = roots

    async def preview(self, run: Run, folder: str) -> PreviewResult:
        """Run it over an overlay of `folder`, which is among what the run may write."""
        lower = await asyncio.to_thread(self._judged, folder, run)
        if run.token is None and not (run.wanted.domains or run.wanted.read):
            refuse_more_than_free(run.wanted)
        prepared = await asyncio.to_thread(self._sandbox.prepare, run)
        await self._sandbox.use_token(prepared)
        handle = os.open(lower, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        info = os.fstat(handle)
        layers = await asyncio.to_thread(self._previews.begin, info)
        preview_id, upper = layers.preview_id, layers.upper
        kept = False
        try:
            mark = await asyncio.to_thread(_fingerprint, handle, lower)
            captures = {
                "stdout": HeadTail(run.head_bytes, run.tail_bytes),
                "stderr": HeadTail(run.head_bytes, run.tail_bytes),
            }

            async def keep(data: bytes, stream: Stream) -> None:
                captures[stream].feed(data)

            ending, rules = await self._holder.hold(
                prepared,
                keep,
                overlay=Overlay(lower, str(upper), str(layers.work), str(layers.shown)),
                watch_network=True,
            )
            record = new_record(preview_id, run.holder.bound, lower, info, mark)
            note: str | None = None
            try:
                changes = await asyncio.to_thread(_changes, handle, upper)
            except NotApplicableError as error:
                changes, note = [], f"It cannot be applied: {error}."
            except PermissionError as error:
                changes, note = [], f"It cannot be applied: {error.filename} cannot be read."
            record = record.model_copy(update={"changes": tuple(changes)})
            if any(one.kind == "other" for one in changes):
                note = "It cannot be applied: it made a pipe, socket or device."
            if changes and note is None:
                await asyncio.to_thread(self._previews.keep, record)
                kept = True
            return PreviewResult(
                preview_id=preview_id,
                folder=lower,
                exit_code=ending.exit_code,
                timed_out=ending.timed_out,
                stdout=captures["stdout"].result(),
                stderr=captures["stderr"].result(),
                changes=changes,
                network=list(shown(rules)),
                commit=CommitCall(
                    preview_id=preview_id, digest=record.digest, changes=lines(record.changes)
                )
                if kept
                else None,
                note=note,
            )
        finally:
            os.close(handle)
            prepared.places.close()
            if not kept:
                await asyncio.to_thread(remove_layers, upper.parent)
            os.close(layers.lock)

    def commit(self, call: CommitCall, bound: str) -> CommitResult:
        """Apply it. Blocking; raises `HostError` when anything is not as it was."""
        record = self._previews.find(call.preview_id, bound)
        with self._previews.lock(record.id):
            # Read again: somebody may have applied it while this one waited.
            return self._commit(self._previews.find(call.preview_id, bound), call)

    def _commit(self, record: Record, call: CommitCall) -> CommitResult:
        if record.state == "committed":
            raise HostError(
                f"The preview {record.id} was applied already.",
                fix="Make a new one with sandbox_preview.",
                code="already_done",
            )
        if call.digest != record.digest or call.changes != lines(record.changes):
            raise HostError(
                "These are not the changes that the preview showed.",
                fix="Give back the preview's `commit` unchanged.",
                code="conflict",
            )
        handle = self._open(record)
        try:
            upper = os.open(self._previews.upper(record.id), os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._apply(record, handle, upper)
            finally:
                os.close(upper)
        finally:
            os.close(handle)
        self._previews.keep(record.model_copy(update={"state": "committed"}))
        return CommitResult(preview_id=record.id, folder=record.folder, applied=len(record.changes))

    def _apply(self, record: Record, handle: int, upper: int) -> None:
        expected: dict[str, os.stat_result] | None = None
        if record.state == "ready":
            expected = {}
            if _fingerprint(handle, record.folder, expected) != record.fingerprint:
                raise changed_meanwhile(record.folder)
            # What was shown is what lies aside, to the byte.
            again = record.model_copy(update={"changes": tuple(read_changes(handle, upper))})
            if again.digest != record.digest:
                raise changed_meanwhile("The preview itself")
            self._previews.keep(record.model_copy(update={"state": "committing"}))
        else:
            refuse_what_was_changed(handle, record.changes)
        try:
            Applying(handle, upper, record.id, expected).run(record.changes)
        except InPartError as error:
            raise HostError(
                f"The preview is applied in part: {error}. Applied: "
                f"{', '.join(map(_printable, error.left[:20])) or 'what an earlier call applied'}. "
                f"What was replaced lies in {record.folder}/{error.folder}.",
                fix="Mend the cause (space, permissions) and make the same call again: it goes on "
                "where it stopped.",
                code="cut_off",
            ) from error
        except OSError as error:
            self._previews.keep(record)
            raise HostError(
                f"The preview could not be applied: {error.strerror} ({error.filename}). "
                "Everything was taken back.",
                fix="Mend the cause (space, permissions) and make a new preview.",
                code="taken_back",
            ) from error
        except HostError:
            self._previews.keep(record)
            raise

    def _open(self, record: Record) -> int:
        try:
            handle = os.open(record.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise changed_meanwhile(record.folder) from error
        info = os.fstat(handle)
        if (info.st_dev, info.st_ino) != (record.device, record.inode):
            os.close(handle)
            raise changed_meanwhile(record.folder)
        return handle

    def _judged(self, folder: str, run: Run) -> str:
        """The folder's own path; without a token it must be within the roots."""
        lower = places.resolve(folder)
        own = [str(one) for one in self._sandbox.protected if places.within(str(one), (lower,))]
        if own:
            raise HostError(
                f"{lower} contains Hostwright's own state ({own[0]}); no dry run looks into that.",
                fix="Preview a folder beneath it.",
                code="denied",
            )
        roots = [os.path.realpath(root) for root in self._roots]
        if run.token is None and not places.within(lower, roots):
            raise HostError(
                f"{lower} is outside the folders that dry runs may look into: {', '.join(roots)}.",
                fix="Choose one of them, mint a token that may write there, or let the owner set "
                "[guard.sandbox] preview_roots.",
                code="not_granted",
            )
        return lower


def _fingerprint(handle: int, folder: str, seen: dict[str, os.stat_result] | None = None) -> str:
    try:
        return tree.fingerprint(handle, seen)
    except PermissionError as error:
        raise HostError(
            f"Something in {folder} cannot be read ({error.filename}), so nobody could tell "
            "whether it is changed.",
            fix="Preview a folder that this user can read.",
            code="denied",
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        # Somebody is at work there this very moment.
        raise changed_meanwhile(folder) from error


def _changes(lower: int, upper: Path) -> list[Change]:
    handle = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return read_changes(lower, handle)
    finally:
        os.close(handle)
