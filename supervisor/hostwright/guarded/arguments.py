"""Are the arguments what the tool's input schema says? Asked before the owner is.

The schema is a stranger's. It is compiled once per tool; one that is not a schema, that points
elsewhere (nothing is fetched), or that would take too long is not our failure: the server judges
its arguments itself, as without a gateway. Regular expressions of the schema are left to it too: a
hostile one could hold up the whole daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from hostwright_kit.errors import HostError
from hostwright_kit.redact import is_secret_name, redact_text

logger = logging.getLogger(__name__)

MAX_STEPS = 20_000
MAX_COMPILED = 4_000
MAX_REPORTED_FAULTS = 10
MAX_FAULT_CHARS = 300
# Those that look at regular expressions, their own or a neighbour's.
_WITH_PATTERNS = ("pattern", "patternProperties", "format")
_BESIDE_PATTERNS = ("additionalProperties", "unevaluatedProperties")

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuchError(Exception):
    """Checking this takes longer than a call may be held up."""


class _Steps:
    """How many keywords may still be looked at. Validation runs in one piece, so one count does."""

    left = 0


class Arguments:
    """The compiled schemas of all tools."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], tuple[object, Any | None]] = {}

    def check(self, server: str, tool: str, schema: object, arguments: Mapping[str, Any]) -> None:
        """Raise `HostError` when the arguments do not fit; return when they do or nobody can say.

        `schema` must be the same object for as long as the tool's listing is the same.
        """
        compiled = self._compiled.get((server, tool))
        if compiled is None or compiled[0] is not schema:
            if len(self._compiled) >= MAX_COMPILED:
                self._compiled.clear()
            compiled = self._compiled[server, tool] = (schema, _compile(server, tool, schema))
        if (validator := compiled[1]) is None:
            return
        _Steps.left = MAX_STEPS
        try:
            faults: list[ValidationError] = []
            for fault in validator.iter_errors(arguments):
                faults.append(fault)
                if len(faults) > MAX_REPORTED_FAULTS:
                    break
        except (_TooMuchError, Unresolvable, RecursionError, SchemaError) as error:
            logger.info("the input schema of %s.%s is not used: %r", server, tool, error)
            self._compiled[server, tool] = (schema, None)
            return
        except Exception:
            # A keyword of a wrong type, which this draft's own schema lets through.
            logger.info("the input schema of %s.%s cannot be used", server, tool, exc_info=True)
            self._compiled[server, tool] = (schema, None)
            return
        if faults:
            raise HostError(
                f"The arguments of {tool} are not valid: "
                + "; ".join(_describe(fault) for fault in faults[:MAX_REPORTED_FAULTS])
                + ".",
                fix="Correct them as the tool's input schema says.",
                code="bad_arguments",
            )


def _compile(server: str, tool: str, schema: object) -> Any | None:
    if not isinstance(schema, Mapping):
        return None
    fields = cast("Mapping[str, Any]", schema)
    try:
        draft = validator_for(fields, default=Draft202012Validator)
        _Steps.left = MAX_STEPS
        _bounded_class(draft)(draft.META_SCHEMA).validate(fields)
    except (ValidationError, _TooMuchError, Unresolvable, RecursionError) as error:
        logger.info("%s.%s has no usable input schema: %.200s", server, tool, error)
        return None
    except Exception:
        logger.info("%s.%s has no usable input schema", server, tool, exc_info=True)
        return None
    # A registry of its own: the default one would fetch what a `$ref` points to.
    return _bounded_class(draft)(fields, registry=Registry())


_classes: dict[Any, Any] = {}


def _bounded_class(draft: Any) -> Any:
    """This draft, with every keyword counted and none that runs a stranger's patterns."""
    if draft not in _classes:
        known = cast("Mapping[str, Keyword]", draft.VALIDATORS)
        keywords = {name: _counted(name, keyword) for name, keyword in known.items()}
        _classes[draft] = extend(draft, keywords)
    return _classes[draft]


def _counted(name: str, keyword: Keyword) -> Keyword:
    def check(
        validator: Any, value: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError] | None:
        _Steps.left -= 1
        if _Steps.left < 0:
            raise _TooMuchError
        if name in _WITH_PATTERNS or (name in _BESIDE_PATTERNS and "patternProperties" in schema):
            return None
        if name == "unevaluatedProperties":
            return None
        return keyword(validator, value, instance, schema)

    return check


def _describe(fault: ValidationError) -> str:
    names = [str(part) for part in fault.absolute_path]
    path = ".".join(names)
    if any(is_secret_name(name) for name in names):
        return f"{path}: is not valid"
    message = redact_text(fault.message[:2_000])
    if len(message) > MAX_FAULT_CHARS:
        message = f"{message[:MAX_FAULT_CHARS]}…"
    return f"{path}: {message}" if path else message
