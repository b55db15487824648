"""One MCP server as a client must see it. Plain data; what a client's file makes of it is
decided in `catalog`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

_URL = TypeAdapter(HttpUrl)


def _http_url(value: str) -> str:
    # Only checked: pydantic's own form of it would come out respelt.
    _URL.validate_python(value)
    return value


def _no_line_ends(value: SecretStr) -> SecretStr:
    if not value.get_secret_value() or not value.get_secret_value().isprintable():
        raise ValueError("a bearer token must be one line of printable characters")
    return value


ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]


class Entry(BaseModel):
    """A server: a command to start (stdio) or a URL to talk to (streamable HTTP)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ServerName
    command: AbsolutePath | None = Field(
        default=None, description="Absolute, because clients start servers with a bare PATH."
    )
    args: tuple[str, ...] = ()
    env: dict[VariableName, str] = Field(default_factory=dict)
    cwd: AbsolutePath | None = Field(
        default=None, description="Working folder; clients without such a setting get a warning."
    )
    url: Annotated[str, AfterValidator(_http_url)] | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    bearer_token: Annotated[SecretStr, AfterValidator(_no_line_ends)] | None = Field(
        default=None, description="Sent as the Authorization header; makes the file private."
    )
    bearer_token_env: VariableName | None = Field(
        default=None,
        description="Variable of the client's environment with the token, instead of the token.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="How long a call may take, where the client has a setting for it.",
    )

    @model_validator(mode="after")
    def _one_transport(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("an entry has either a command or a url")
        if self.url is not None and (self.args or self.env or self.cwd):
            raise ValueError("args, env and cwd belong to a command, not to a url")
        if self.url is None and (self.headers or self.bearer_token or self.bearer_token_env):
            raise ValueError("headers and tokens belong to a url, not to a command")
        if self.bearer_token is not None and self.bearer_token_env is not None:
            raise ValueError("a bearer token is given either as it is or by a variable")
        return self
