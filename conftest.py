"""What holds for every test of the workspace."""

from __future__ import annotations

import signal

# Whoever starts the tests in the background (`nohup`, a `&`) has SIGINT and SIGHUP ignored,
# and an ignored signal stays ignored in every program that a test starts and then interrupts.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
