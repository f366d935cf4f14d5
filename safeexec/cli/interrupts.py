"""Ctrl-C while a step runs, and being told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from safeexec.session import Session


class Terminated(BaseException):
    """The process was told to end. Passes through every ``with`` on its way out, so that no sandbox stays behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated in here, unless the process was started with them ignored (``nohup``)."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    names = ("SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


class Interrupts:
    """While it is entered, the first Ctrl-C interrupts the session's step and the next one raises KeyboardInterrupt here, which kills it.

    A process that was started with Ctrl-C ignored (in the background, say) goes on ignoring it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread: threading.Thread | None = None
        self._old = signal.getsignal(signal.SIGINT)
        self.happened = False

    def __enter__(self) -> Interrupts:
        if self._old is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._old is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._old)
        if self._thread is not None:
            self._thread.join()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            raise KeyboardInterrupt
        self.happened = True
        # In a thread: this handler interrupts the very code that may hold the lock session.interrupt() takes.
        self._thread = threading.Thread(target=self._session.interrupt, name="safeexec-interrupt", daemon=True)
        self._thread.start()
