"""Running commands: scrubbed environment, bounded output, nothing left behind.

`commands` is the way in; `resolve` checks what is asked for, `environment` builds what the command
sees, `process` and `warden` run it and end all of it.
"""

from hostwright_kit.capture import StreamCapture
from hostwright_system.shell.commands import CommandResult, CommandRunner
from hostwright_system.shell.resolve import CommandSpec

__all__ = ["CommandResult", "CommandRunner", "CommandSpec", "StreamCapture"]
