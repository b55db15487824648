"""What was started, on disk before it is started; and ending what a killed daemon left behind.

`children.json` in the runtime folder: one entry per server process, written with its mark before
the process exists (so that none can exist without an entry) and again with pid and start time.

    {"version": 1, "boot": "<boot id> pid:[…]",
     "children": {"<mark>": {"name": "system", "leader": [4711, 123456], "seen": [[4712, 123460]]}}}

A new daemon that holds the lock ends every process that an entry names exactly (pid and start
time) or that carries an entry's mark, and only those. A file of another boot names nothing that
still exists. A damaged file is moved aside, and nothing is ended on its account.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from hostwright.keeper import processes
from hostwright.keeper.processes import Family, ProcessId
from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError

FILE_NAME = "children.json"
GRACE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ChildRecord(BaseModel, extra="forbid"):
    """One server process."""

    name: str
    leader: ProcessId | None = Field(description="None until it was started.")
    seen: list[ProcessId] = []


class _Content(BaseModel, extra="forbid"):
    version: Literal[1] = 1
    boot: str
    children: dict[str, ChildRecord] = {}


class Survivors(BaseModel, frozen=True):
    """What a daemon that did not end in order had left running."""

    servers: tuple[str, ...] = Field(description="Names of the servers they belonged to.")
    ended: int = Field(description="Processes ended now.")
    left: tuple[int, ...] = Field(description="Pids that even SIGKILL did not end.")


class Records:
    """The file, and what it says; for the holder of the daemon's lock alone."""

    def __init__(self, runtime_dir: Path) -> None:
        self._path = runtime_dir / FILE_NAME
        self._content = _Content(boot=processes.boot_id())
        self._writing = asyncio.Lock()
        self._changes = 0
        self._written = 0
        """How many of the changes are on disk."""

    async def begin(self, mark: str, name: str) -> None:
        """A process with this mark is about to be started."""
        self._content.children[mark] = ChildRecord(name=name, leader=None)
        await self._save()

    async def started(self, mark: str, leader: ProcessId) -> None:
        """It was."""
        self._content.children[mark].leader = leader
        await self._save()

    async def saw(self, families: list[Family]) -> None:
        """Their descendants, for the case that their marks get lost."""
        changed = False
        for family in families:
            record = self._content.children.get(family.mark)
            seen = sorted(family.seen - {family.leader})
            if record and record.seen != seen:
                record.seen, changed = seen, True
        if changed:
            await self._save()

    async def ended(self, mark: str) -> None:
        """Nothing of it is left."""
        if self._content.children.pop(mark, None):
            await self._save()

    async def recover(self) -> Survivors:
        """End what an earlier daemon left, then start an empty file."""
        old = await asyncio.to_thread(self._read)
        records = old.children if old and old.boot == self._content.boot else {}
        families = await asyncio.to_thread(
            lambda: [(record.name, _family(mark, record)) for mark, record in records.items()]
        )
        results = await asyncio.gather(
            *(processes.end_family(family, grace_seconds=GRACE_SECONDS) for _, family in families)
        )
        outcomes = list(zip(families, results, strict=True))
        for (name, family), result in outcomes:
            if result.left:
                # Kept, so that the next start tries again.
                self._content.children[family.mark] = ChildRecord(
                    name=name, leader=None, seen=sorted(result.left)
                )
        await self._save()
        return Survivors(
            servers=tuple(sorted({name for (name, _), got in outcomes if got.ended or got.left})),
            ended=sum(len(got.ended) for _, got in outcomes),
            left=tuple(sorted({one.pid for _, got in outcomes for one in got.left})),
        )

    async def _save(self) -> None:
        """Returns when this change is on disk; those that came while one was written go at once."""
        self._changes += 1
        mine = self._changes
        async with self._writing:
            if self._written >= mine:
                return
            upto, content = self._changes, self._content.model_dump_json().encode()
            try:
                await asyncio.to_thread(write_private, self._path, content)
            except OSError as error:
                raise HostError(
                    f"The record of started processes {self._path} cannot be written: "
                    f"{error.strerror}.",
                    fix=f"Free disk space, or give this user the folder {self._path.parent}.",
                    code="records_unwritable",
                ) from error
            self._written = upto

    def _read(self) -> _Content | None:
        try:
            return _Content.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            _log.warning(
                "The record of started processes %s is damaged (%s); moved to %s. Processes that "
                "a killed daemon may have left were not looked for.",
                self._path,
                error.errors(include_url=False, include_input=False)[0]["msg"],
                aside,
            )
            return None


def _family(mark: str, record: ChildRecord) -> Family:
    leader = record.leader
    alive = leader is not None and processes.identity(leader.pid) == leader
    # The leader is nobody's to wait for now; it is a member like the others.
    seen = {*record.seen, *((leader,) if leader else ())}
    family = Family(mark=mark, leader=leader, leader_held=False, seen=seen)
    if alive and leader:
        # As long as it lives, its session id is its own: who is in that session is its.
        family.seen |= {row.id for row in processes.table().values() if row.session == leader.pid}
    return family
