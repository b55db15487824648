"""What the bytes of a file are: text in which encoding, an image, or neither.

Order: magic bytes of images, byte order mark, strict UTF-8, then charset-normalizer. A NUL byte
without a mark means binary: UTF-16 without a mark cannot be told apart with certainty, and whoever
knows better names the encoding.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from charset_normalizer import from_bytes

from hostwright_kit.errors import HostError

SAMPLE_BYTES = 64 * 1024

_BOMS = (  # the longer ones first: the UTF-32 mark begins with the UTF-16 one
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARKED = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Codecs of the standard library that are no character encodings of files.
_NOT_FILE_ENCODINGS = frozenset(
    {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "mbcs", "oem"}
)
# EBCDIC has another newline and is practically always a wrong guess; UTF-7 likewise.
_NEVER_GUESSED = ["cp037", "cp424", "cp500", "cp875", "cp1026", "cp1140", "utf_7"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How to read text: codec, length of the byte order mark, and what a line ends with."""

    codec: str
    bom: bytes = b""

    @property
    def newline(self) -> bytes:
        return "\n".encode(self.codec)

    @property
    def width(self) -> int:
        """Bytes per code unit: newlines count at multiples of it only."""
        return len(self.newline)


def image_type(head: bytes) -> str | None:
    """The MIME type by magic bytes, for the image types that models take."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def detect(sample: bytes, *, complete: bool) -> Encoding | None:
    """The encoding of the file that begins with `sample`; None for binary content.

    `complete`: the sample is the whole file, so a cut character at its end is an error.
    """
    if marked := _by_mark(sample):
        return marked
    if b"\0" in sample:
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=complete)
    except UnicodeDecodeError:
        guess = from_bytes(sample, cp_exclusion=_NEVER_GUESSED).best()
        if guess is None:
            return None
        return Encoding(guess.encoding.replace("_", "-"))
    return Encoding("utf-8")


def named(encoding: str, sample: bytes) -> Encoding:
    """The encoding that the caller names, with the mark that the file has."""
    try:
        codec = codecs.lookup(encoding)
        name = _MARKED.get(codec.name, codec.name)
        known = name not in _NOT_FILE_ENCODINGS and "\n".encode(name) != b""
    except (LookupError, UnicodeError, ValueError):
        known, name = False, ""
    if not known:
        raise HostError(
            f"{encoding!r} is not a character encoding.",
            fix="Use a name that Python knows, such as utf-8, utf-16-le, latin-1, cp1252 or"
            " shift-jis; or auto, or base64 for the raw bytes.",
            code="bad_encoding",
        )
    marked = _by_mark(sample)
    if marked and (marked.codec == name or encoding.lower().replace("_", "-") in _MARKED):
        return marked
    return Encoding(name)


def decode(data: bytes, codec: str, *, final: bool) -> tuple[str, int, int]:
    """(text, bytes of a character cut at the end, characters replaced by U+FFFD)."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    try:
        text = decoder.decode(data, final)
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder(codec)("replace")
        text = decoder.decode(data, final)
        return text, len(decoder.getstate()[0]), text.count("\ufffd")
    return text, len(decoder.getstate()[0]), 0


def _by_mark(sample: bytes) -> Encoding | None:
    for mark, codec in _BOMS:
        if sample.startswith(mark):
            return Encoding(codec, mark)
    return None
