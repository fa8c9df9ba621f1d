"""A time limit for what a plugin does."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 2.0
"""Where a process may be ended: after this many times the limit it is, because nothing else helped."""

_AGAIN_S = 1.0


class TimeLimitExceeded(BaseException):
    """A cell took longer than its suite allows. It is no :class:`Exception`, which a plugin may catch in passing."""


@contextmanager
def time_limit(seconds: float | None, *, may_exit: bool = False) -> Iterator[None]:
    """Interrupt what takes too long.

    Python code is interrupted where it stands, and again every second if it goes on regardless. Compiled code that
    does not return cannot be: then, if ``may_exit``, the whole process ends at :data:`GRACE` times the limit, after it
    wrote to standard error where it was. While a module is imported, which a plugin's first call may do, nothing is
    interrupted, and the time begins anew: a library that was imported by half would fail everybody.

    Parameters
    ----------
    seconds : float, optional
        Default: no limit.
    may_exit : bool
        Whether this process is a worker that will be replaced.

    Raises
    ------
    TimeLimitExceeded
        From within the context.
    """
    interruptible = threading.current_thread() is threading.main_thread()
    if seconds is None or not (interruptible or may_exit):
        yield
        return

    def begin() -> None:
        if may_exit:
            faulthandler.dump_traceback_later(GRACE * seconds, exit=True)
        if interruptible:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            begin()
        else:
            raise TimeLimitExceeded(f"it took more than {seconds:g} s, the limit of this suite (cell_timeout_s)")

    before = signal.signal(signal.SIGALRM, interrupt) if interruptible else None
    begin()
    try:
        yield
    finally:
        if may_exit:
            faulthandler.cancel_dump_traceback_later()
        if interruptible:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
