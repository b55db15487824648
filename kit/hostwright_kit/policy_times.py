"""When a rule holds, and how often: windows of time, and rates.

when = { days = "mon-fri", hours = "08:00-18:00", timezone = "Europe/Rome" }
rate = { calls = 10, per = "1h", by = "caller" }
"""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DURATION = re.compile(r"(\d{1,6})\s*(s|min|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str) -> int:
    """`90s`, `15min`, `2h`, `7d`, `1w` as seconds; `ValueError` when it is none of these."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no duration; write for example 90s, 15min, 2h, 7d or 1w")
    return int(found[1]) * _SECONDS[found[2]]


class Window(BaseModel):
    """`when`: days and hours of the week."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: str = Field(default="mon-sun", description="mon-fri, or sat,sun.")
    hours: str = Field(default="00:00-24:00", description="08:00-18:00; may pass midnight.")
    timezone: str | None = Field(default=None, description="Europe/Rome; default: this machine's.")

    @field_validator("days")
    @classmethod
    def _known_days(cls, value: str) -> str:
        _days(value)
        return value

    @field_validator("hours")
    @classmethod
    def _known_hours(cls, value: str) -> str:
        _hours(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError):
                raise ValueError(f"{value!r} is no time zone; write for example UTC") from None
        return value

    def contains(self, now: datetime) -> bool:
        """Whether `now` (aware) is in it. A window over midnight belongs to the day it began."""
        local = now.astimezone(ZoneInfo(self.timezone) if self.timezone else None)
        begin, end = _hours(self.hours)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if begin < end:
            return begin <= minute < end and day in _days(self.days)
        if minute >= begin:
            return day in _days(self.days)
        return minute < end and (day - 1) % 7 in _days(self.days)


class Rate(BaseModel):
    """`rate`: so many calls in so long, counted for each caller, each tool or all together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int = Field(ge=1, le=1_000_000)
    per: str = Field(description="1min, 2h, 7d.")
    by: Literal["caller", "tool", "all"] = "caller"

    @field_validator("per")
    @classmethod
    def _a_duration(cls, value: str) -> str:
        if seconds_of(value) > 366 * 86_400:
            raise ValueError("at most a year is counted")
        return value

    @property
    def seconds(self) -> int:
        """How far back is counted."""
        return seconds_of(self.per)


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{text!r} are no days; write mon-fri or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found.update(day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))
    return frozenset(found)


def _hours(text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(text.replace(" ", ""))
    if found is None or (found[3] == "24" and found[4] != "00"):
        raise ValueError(f"{text!r} are no hours; write 08:00-18:00")
    begin = time(int(found[1]), int(found[2]))
    minutes = begin.hour * 60 + begin.minute
    end = int(found[3]) * 60 + int(found[4])
    if minutes == end:
        raise ValueError(f"{text!r} is empty; write 00:00-24:00 for the whole day")
    return minutes, end
