"""How a command ends: what went wrong is said once, and the exit code means something."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from hostwright.cli.output import print_error
from hostwright_kit.errors import HostError


def leave(work: Callable[[], None], *, as_json: bool) -> None:
    """Do the work of a command; raises `SystemExit` unless all went well."""
    try:
        work()
        sys.stdout.flush()
    except HostError as error:
        raise SystemExit(print_error(error, as_json=as_json)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`). Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
