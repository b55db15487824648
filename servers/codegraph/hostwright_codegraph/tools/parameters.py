"""Parameters that several tools have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Project = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=4_096,
        description="Path or folder name of the project; needed where there are several.",
    ),
]
Symbol = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="A name, a qualified name (Class.method, package.module.name), path::name, "
        "path:line, or the path of a file.",
    ),
]
MaxTokens = Annotated[
    int, Field(ge=200, le=50_000, description="The answer is never longer than this.")
]
Cursor = Annotated[
    str | None,
    Field(max_length=500, description="next_cursor of the page before, with the same question."),
]
Depth = Annotated[int, Field(ge=1, le=8, description="How many calls away.")]
Overrides = Annotated[
    bool, Field(description="Count a call of a method as a call of what overrides it.")
]
Tests = Annotated[bool, Field(description="With tests.")]
