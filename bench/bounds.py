"""What a figure is to reach, by itself or beside another front's, and whether it does."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Bound(BaseModel, frozen=True):
    """One promise about one row."""

    of: Literal["median", "p50", "p95", "most"] = Field(
        default="median", description="Which figure of the row; most: the highest of its rounds."
    )
    beside: str = Field(
        default="", description="The front whose figure it is set against; none: the figure itself."
    )
    how: Literal["ours ÷ theirs", "theirs ÷ ours"] = "ours ÷ theirs"
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, figure: float) -> bool:
        """Whether the promise is kept."""
        fits = self.at_most is None or figure <= self.at_most
        return fits and (self.at_least is None or figure >= self.at_least)

    def said(self, unit: str) -> str:
        """The promise in words."""
        sign, bound = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        named = "" if self.of == "median" else f"{self.of} "
        if not self.beside:
            return f"{named}{sign} {bound:,g} {unit}".strip()
        ratio = self.how.replace("theirs", self.beside)
        return f"{named}{ratio} {sign} {bound:,g}"
