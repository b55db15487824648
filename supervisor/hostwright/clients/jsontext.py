r"""Read JSON, JSONC and JSON5: the values, and where in the text their members stand.

Strict JSON (RFC 8259) is parsed by the standard library, whose scanner also tells where a value
ends. Everything else (comments, trailing commas, https://spec.json5.org) goes through the lexer
and grammar of `json-five`, which takes about 2 s for a megabyte. Its decoding of strings is not
used: it takes `"C:\\xampp"` for an error and `"\\u0041"` for `A`. Its grammar gets empty strings
instead, and what stands between a token's positions is decoded here.

Nothing here reads or writes files.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn, cast

from json5.model import (
    BooleanLiteral,
    Identifier,
    Infinity,
    JSONArray,
    JSONObject,
    NaN,
    Node,
    NullLiteral,
    Number,
    UnaryOp,
)
from json5.parser import JSONParser
from json5.tokenizer import JSON5Token, tokenize
from json5.utils import JSON5DecodeError

from hostwright_kit.errors import HostError

Level = Literal["json", "jsonc", "json5"]
Path = tuple[str, ...]

WHITESPACE = " \t\r\n\v\f\u00a0\ufeff\u2028\u2029"
_STRICT_WHITESPACE = re.compile(r"[ \t\r\n]*")
_JSON5_ONLY = {"SINGLE_QUOTE_STRING", "NAME", "PLUS", "HEXADECIMAL", "INFINITY", "NAN"}
_STRINGS = {"DOUBLE_QUOTE_STRING", "SINGLE_QUOTE_STRING"}
_WORDS = {"NAME", "TRUE", "FALSE", "NULL", "INFINITY", "NAN", "EXPONENT"}
_BLANK = {"WHITESPACE", "LINE_COMMENT", "BLOCK_COMMENT"}
_EXPECTED = {
    "COLON": "':'",
    "COMMA": "','",
    "RBRACE": "'}'",
    "RBRACKET": "']'",
    "key": "a key",
    "value": "a value",
}


@dataclass(frozen=True)
class Member:
    """One `key: value` of an object, by its positions in the text."""

    key: str
    start: int
    key_end: int
    value_start: int
    end: int
    comma: int | None
    """Where the comma behind the value stands, if there is one."""


@dataclass(frozen=True)
class ObjectSpan:
    """An object: the positions of its braces (`end` is behind the closing one) and its members."""

    start: int
    end: int
    members: tuple[Member, ...]

    def get(self, key: str) -> Member | None:
        return next((member for member in self.members if member.key == key), None)


def line_column(text: str, index: int) -> tuple[int, int]:
    """The line and column, both counted from 1, of a position."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


class InvalidTextError(HostError):
    """The text is not what its format allows; says where."""

    def __init__(self, problem: str, text: str, index: int) -> None:
        line, column = line_column(text, index)
        super().__init__(
            f"line {line}, column {column}: {problem}.",
            fix="Correct that place by hand; nothing was changed.",
            code="invalid_file",
        )
        self.line = line
        self.column = column


class JsonText:
    """A parsed document: its value, its dialect and where its objects stand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.level: Level = "json"
        self._model: Node | None = None
        self._commas: list[int] = []
        self._line_comments: list[tuple[int, int]] = []
        try:
            try:
                self.value: Any = json.loads(text)
            except json.JSONDecodeError:
                self._parse_lenient()
        except RecursionError:
            raise InvalidTextError("nested too deeply to be read", text, 0) from None

    # -- reading -------------------------------------------------------------------------------

    def _parse_lenient(self) -> None:
        tokens = list(_clean_tokens(self.text))
        self._commas = [token.index for token in tokens if token.type == "COMMA"]
        self._line_comments = [
            (token.index, token.end) for token in tokens if token.type == "LINE_COMMENT"
        ]
        self.level = "json5" if any(token.type in _JSON5_ONLY for token in tokens) else "jsonc"
        parser = JSONParser()

        # The library would go on and guess; the first place is the one worth reporting.
        def stop(token: JSON5Token | None) -> NoReturn:
            wanted = parser.expecting[-1] if parser.expecting else ["value"]
            names = " or ".join(_EXPECTED.get(name, name) for name in wanted)
            if token is None:
                raise InvalidTextError(f"the text ends where {names} should be", self.text, end)
            if (token.type or "").startswith("UNTERMINATED"):
                raise InvalidTextError("a string is not closed", self.text, token.index)
            raise InvalidTextError(f"{names} should be here", self.text, token.index)

        end = len(self.text)
        parser.error = stop
        try:
            self._model = parser.parse(iter(tokens)).value
        except JSON5DecodeError as error:
            raise InvalidTextError(
                str(error.msg).split(" in or near")[0], self.text, error.index
            ) from (error)
        self.value = self._load(self._model)

    def _load(self, node: Node) -> Any:
        match node:
            case JSONObject():
                return {
                    self._key(key): self._load(value)
                    for key, value in zip(node.keys, node.values, strict=True)
                }
            case JSONArray():
                return [self._load(value) for value in node.values]
            case NullLiteral():
                return None
            case BooleanLiteral() | Infinity() | NaN() | Number():
                return cast("Any", node).value
            case UnaryOp():
                number = cast("float", self._load(node.value))
                # json-five has already negated an Infinity.
                negate = node.op == "-" and not isinstance(node.value, Infinity)
                return -number if negate else number
            case _:
                return _decode_string(self.text, *_span(node))

    def _key(self, node: Node) -> str:
        return (
            node.name if isinstance(node, Identifier) else _decode_string(self.text, *_span(node))
        )

    # -- positions -----------------------------------------------------------------------------

    def object_at(self, path: Path) -> ObjectSpan | None:
        """The object at `path`, or None where a part is missing or null.

        Raises when a part is something else than an object, or is given twice: which of the two
        counts depends on the reader, so neither may be edited.
        """
        span = self._root
        node = self._model
        for depth, key in enumerate(path):
            same = [member for member in span.members if member.key == key]
            if len(same) > 1:
                raise InvalidTextError(f"“{key}” is given twice", self.text, same[1].start)
            if not same:
                return None
            if self._model is None:
                value_is_object = self.text[same[0].value_start] == "{"
                value_is_null = self.text.startswith("null", same[0].value_start)
            else:
                found = cast("JSONObject", node)
                node = found.values[[self._key(item) for item in found.keys].index(key)]
                value_is_object = isinstance(node, JSONObject)
                value_is_null = isinstance(node, NullLiteral)
            if value_is_null:
                return None
            if not value_is_object:
                dotted = ".".join(path[: depth + 1])
                raise InvalidTextError(
                    f"“{dotted}” is not an object", self.text, same[0].value_start
                )
            span = self._object(same[0].value_start, node)
        return span

    @cached_property
    def _root(self) -> ObjectSpan:
        start = len(self.text) - len(self.text.lstrip(WHITESPACE))
        if self._model is not None:
            start = _span(self._model)[0]
        if not isinstance(self.value, dict):
            raise InvalidTextError("the outermost value is not an object", self.text, start)
        return self._object(start, self._model)

    def _object(self, start: int, node: Node | None) -> ObjectSpan:
        if node is None:
            return _strict_object(self.text, start)
        found = cast("JSONObject", node)
        _, end = _span(found)
        members: list[Member] = []
        starts = [_span(key)[0] for key in found.keys]
        for index, (key, value) in enumerate(zip(found.keys, found.values, strict=True)):
            value_start, value_end = _span(value)
            limit = starts[index + 1] if index + 1 < len(starts) else end
            where = bisect_left(self._commas, value_end)
            comma = self._commas[where] if where < len(self._commas) else end
            members.append(
                Member(
                    key=self._key(key),
                    start=starts[index],
                    key_end=_span(key)[1],
                    value_start=value_start,
                    end=value_end,
                    comma=comma if comma < limit else None,
                )
            )
        return ObjectSpan(start=start, end=end, members=tuple(members))

    def in_line_comment(self, index: int) -> bool:
        """Whether the character at `index` belongs to a `//` comment."""
        return any(start <= index < end for start, end in self._line_comments)


def _span(node: Node) -> tuple[int, int]:
    first = node._tok
    last = node._end_tok or first
    if first is None or last is None:  # pragma: no cover - every parsed node has its tokens
        raise HostError("The JSON5 parser gave no position.", code="internal")
    return first.index, last.end


def _strict_object(text: str, start: int) -> ObjectSpan:
    decoder = json.JSONDecoder()

    def skip(position: int) -> int:
        found = _STRICT_WHITESPACE.match(text, position)
        return found.end() if found else position

    members: list[Member] = []
    position = skip(start + 1)
    while text[position] != "}":
        key_start = position
        key, position = decoder.raw_decode(text, position)
        key_end = position
        value_start = skip(skip(position) + 1)
        _, end = decoder.raw_decode(text, value_start)
        position = skip(end)
        comma = position if text[position] == "," else None
        members.append(Member(cast("str", key), key_start, key_end, value_start, end, comma))
        if comma is not None:
            position = skip(comma + 1)
    return ObjectSpan(start=start, end=position + 1, members=tuple(members))


def _clean_tokens(text: str) -> Iterator[JSON5Token]:
    """The library's tokens, with three gaps of its lexer closed and strings emptied (see above)."""
    try:
        tokens = list(tokenize(text))
    except JSON5DecodeError as error:
        found = re.search(r"at index (\d+)", str(error.msg))
        raise InvalidTextError(
            "this character cannot stand here", text, int(found[1]) if found else error.index
        ) from error
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token.type == "LINE_COMMENT" and re.search(r"[\r\u2028\u2029].", token.value):
            # The lexer ends such a comment at \n only; JSON5 ends it earlier.
            raise InvalidTextError("a line ends in something else than \\n", text, token.index)
        if token.type in _STRINGS:
            _decode_string(text, token.index, token.end)
            token.value = token.value[0] * 2
        elif token.type in _WORDS and not _glued(tokens, position - 2):
            # `e2e` comes out as the exponent `e2` and the name `e`; `true` may be a key.
            while (
                token.type in ("EXPONENT", "NAME")
                and position < len(tokens)
                and tokens[position].type in _WORDS
                and tokens[position].index == token.end
            ):
                token.end = tokens[position].end
                token.type = "NAME"
                position += 1
            if _before_colon(tokens, position):
                token.type = "NAME"
            token.value = text[token.index : token.end]
        yield token


def _glued(tokens: list[JSON5Token], position: int) -> bool:
    """Whether the token at `position` is a number that the next one continues (`1e5`)."""
    return (
        position >= 0
        and tokens[position].type in ("INTEGER", "FLOAT")
        and tokens[position].end == tokens[position + 1].index
    )


def _before_colon(tokens: list[JSON5Token], position: int) -> bool:
    while position < len(tokens) and tokens[position].type in _BLANK:
        position += 1
    return position < len(tokens) and tokens[position].type == "COLON"


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|.))", re.DOTALL)
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}


def _decode_string(text: str, start: int, end: int) -> str:
    """The value of the JSON5 string literal between two positions (JSON5 §5)."""
    body = text[start + 1 : end - 1]
    broken = re.search(r"[\r\n]", _ESCAPE.sub(lambda found: "x" * len(found[0]), body))
    if broken:
        raise InvalidTextError("a string is not closed on its line", text, start)

    def replace(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code:
            return chr(int(code, 16))
        letter = found[3]
        next_digit = body[found.end() : found.end() + 1].isdecimal()
        if letter in "xu123456789" or (letter == "0" and next_digit):
            raise InvalidTextError(
                f"“\\{letter}” is no escape sequence", text, start + 1 + found.start()
            )
        return (
            ""
            if letter in ("\n", "\r\n", "\r", "\u2028", "\u2029")
            else _SIMPLE.get(letter, letter)
        )

    value = _ESCAPE.sub(replace, body)
    # Two escapes may make one character outside the basic plane.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
