# mypy: ignore-errors
# It is written against the CPython inside the image, whose private names a checker on the host does not know.
"""Runs inside the sandbox: what `signal` lacks of timers, over the host's clock. Nothing inside runs by itself.

The host stores SIGALRM where the evaluation loop looks for signals, and CPython calls `Alarm.rings`: a handler of the program's own
must not raise in the middle of a frame, or when no step runs.
"""

import errno
import math
import operator
import os
import signal
import time
from signal import SIG_DFL, SIG_IGN, SIGALRM

import _safeexec_device as device

ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF = range(3)


class ItimerError(OSError):
    """An unknown timer, or a time that is none."""

    __module__ = "signal"


class Alarm:
    """The one timer, and the program's handler of SIGALRM."""

    def __init__(self, guest):
        self.guest = guest
        self.handler = SIG_DFL
        self.interval = 0.0
        self.heard = 0

    def rings(self, number=SIGALRM, frame=None):
        guest = self.guest
        if not guest._running:
            return
        if guest._shield:
            guest._deferred = guest._deferred or self.rings
        elif self.handler == SIG_DFL:
            os._exit(128 + SIGALRM)  # as a process that nobody prepared for it
        elif self.handler != SIG_IGN:
            self.heard += 1
            self.handler(number, frame)

    def alarm(self, seconds, /):
        """Arrange for SIGALRM to arrive after the given number of seconds. Returns the seconds that were left of the one before."""
        left = device.alarm(float(max(operator.index(seconds), 0)), 0.0)
        self.interval = 0.0
        return math.ceil(left)

    def setitimer(self, which, seconds, interval=0.0, /):
        """Have SIGALRM arrive after `seconds`, and then every `interval` seconds. Returns (seconds left, interval) of the one before.

        There is ITIMER_REAL only: processor time is the host's to count.
        """
        before = self.getitimer(which)
        seconds, interval = float(seconds), float(interval)
        if not (0 <= seconds < math.inf and 0 <= interval < math.inf):
            raise ItimerError(errno.EINVAL, os.strerror(errno.EINVAL))
        device.alarm(seconds, interval)
        self.interval = interval
        return before

    def getitimer(self, which, /):
        """(seconds left, interval) of a timer."""
        if operator.index(which) != ITIMER_REAL:
            raise ItimerError(errno.EINVAL, os.strerror(errno.EINVAL))
        left = device.alarm(-1.0, 0.0)
        return (left, self.interval) if left else (0.0, 0.0)

    def pause(self):
        """Wait until a signal arrives. None does but the timer's."""
        before = self.heard
        while self.heard == before:
            # The timer may have gone off and the handler not have run yet, and a sleep goes on after that: so never for long.
            time.sleep(min(self.getitimer(ITIMER_REAL)[0] or 0.02, 1.0))


def complete(guest):
    """Put the pieces in place."""
    alarm = Alarm(guest)
    set_handler, get_handler = signal.signal, signal.getsignal

    def set_signal(signalnum, handler):
        if operator.index(signalnum) != SIGALRM:
            return set_handler(signalnum, handler)
        if not callable(handler) and handler not in (SIG_DFL, SIG_IGN):
            raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
        before, alarm.handler = alarm.handler, signal._int_to_enum(handler, signal.Handlers)
        return before

    def get_signal(signalnum):
        return alarm.handler if operator.index(signalnum) == SIGALRM else get_handler(signalnum)

    for function, original in ((set_signal, set_handler), (get_signal, get_handler)):
        function.__name__ = function.__qualname__ = original.__name__
        function.__module__, function.__doc__ = original.__module__, original.__doc__
    for method in (Alarm.alarm, Alarm.setitimer, Alarm.getitimer, Alarm.pause):
        method.__module__ = original.__module__
    set_handler(SIGALRM, alarm.rings)
    signal.signal, signal.getsignal = set_signal, get_signal
    signal.alarm, signal.setitimer, signal.getitimer = alarm.alarm, alarm.setitimer, alarm.getitimer
    signal.pause = alarm.pause
    signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF = ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
    signal.ItimerError = ItimerError
