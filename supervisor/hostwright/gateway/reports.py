"""Progress of one request on its way to its client.

Delivered by a task of its own, because the pipe of a server carries the answers of all clients:
one that reads slowly, or has gone, must cost nobody else anything. What it is too slow for is
dropped, oldest first; progress is advisory (MCP, utilities/progress).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from mcp.shared.dispatcher import ProgressFnT

logger = logging.getLogger(__name__)

Progress = ProgressFnT
MAX_WAITING = 64


class Reports:
    """Takes reports as they come and hands them on in order."""

    def __init__(self, deliver: Progress) -> None:
        self._deliver = deliver
        self._waiting: deque[tuple[float, float | None, str | None]] = deque(maxlen=MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def put(self, params: Mapping[str, Any]) -> None:
        """Queue the params of one `notifications/progress`; what is no progress is ignored."""
        progress, total = _number(params.get("progress")), _number(params.get("total"))
        if progress is None:
            return
        message = params.get("message")
        self._waiting.append((progress, total, message if isinstance(message, str) else None))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def flush(self) -> None:
        """Wait until everything queued was handed on: a report after the answer would be lost."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def close(self) -> None:
        """Nobody waits any longer."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._waiting:
            report = self._waiting.popleft()
            try:
                await self._deliver(*report)
            except Exception as error:  # noqa: BLE001 - the client's side; the request goes on
                logger.info("progress could not be delivered: %s", type(error).__name__)
                return


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
