"""How frames travel in and out of a container over two sockets, and how other output is caught.

Shipped as text next to inside.py; CPython 3.9 and later. It defends nothing: the container is the wall.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec import guest, wire
    from safeexec_backends.docker import orders, past
else:
    try:  # what was shipped comes first: an image may have another version of safeexec installed
        import safeexec_guest as guest
        import safeexec_orders as orders
        import safeexec_wire as wire
    except ImportError:
        from safeexec import guest, wire
        from safeexec_backends.docker import orders

_PIECE = 64 * 1024
_POLLS = (b"7", b"73")
"""The numbers of poll (x86_64) and ppoll (aarch64)."""

later: dict[str, Any] = {}
"""Modules of the program that only sessions need whose steps can be undone: name to code."""


def load_past() -> Any:
    """The module ``past``; it and what it imports take several milliseconds."""
    for name, code in later.items():
        module = type(sys)(name)
        module.__file__ = "<" + name + ">"
        sys.modules[name] = module
        exec(code, module.__dict__)
    later.clear()
    return sys.modules["safeexec_past"]


class Channel:
    """Frames over two sockets: one for frames, one on which the host names the step to be interrupted.

    The main thread reads the frames itself; a thread waits on the other socket, so that an interrupt, and the host's end, are noticed while the
    step is busy. Descriptors 1 and 2 lead to pipes whose content travels as output, so that what C code and child processes print is part of the
    result.
    """

    def __init__(self, frames: int, control: int) -> None:
        self._frames = guest.FdChannel(frames)
        self._control = control
        self._current, self.wanted = -1, 2**64 - 1
        self._redirect()

    def _redirect(self) -> None:
        self._main = _thread.get_ident()
        self._child = False
        self._running = False
        self._floods: dict[int, int] = {}
        self._peek = select.poll()  # under the guest's send lock: a poll object serves one thread at a time
        self._wait = select.poll()  # of the thread that forwards
        self._pipes: dict[int, int] = {}
        self.guest: Any = None
        self._past: past.Past | None = None
        self._helpers: dict[str, Any] = {}
        """Threads of ours by name: a lock each, which is open when the thread has ended."""
        self._halting = self._renewed = False
        self._phantoms = self._forwarder = 0
        self._relayed, self._parked_at = 0, -1
        """How often output was taken from the pipes, and the same when the thread that forwards was last seen to wait for some."""
        self._halted, self._halts = os.pipe()
        os.set_blocking(self._halted, False)
        self._wait.register(self._halted, select.POLLIN)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for number in (1, 2):
            ours, theirs = os.pipe()
            os.set_blocking(ours, False)
            os.dup2(theirs, number, inheritable=True)
            os.close(theirs)
            self._pipes[ours] = number
            self._peek.register(ours, select.POLLIN)
            self._wait.register(ours, select.POLLIN)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def start(self, owner: Any) -> None:
        """Begin to read frames and to forward output for `owner`, the guest."""
        self.guest = owner
        os.register_at_fork(after_in_child=self._after_fork)
        self.resume()

    def resume(self) -> None:
        """Let the threads go on, and in a runner that has just come back tell the host."""
        self._halting = False
        if self._past is None or not self._past.divided:
            self._help("listen", self._listen)
        self._help("forward", self._forward)
        if self._renewed:
            self._renewed = False
            os.write(self.descriptor, b"\1")

    def _help(self, name: str, work: Callable[[], None]) -> None:
        done = self._helpers.get(name)
        if done is not None and done.locked():
            return
        self._parked_at = -1
        done = self._helpers[name] = _thread.allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                work()
            finally:
                done.release()

        _thread.start_new_thread(run, ())

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._halted, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._control not in ready:
                    return
                said = os.read(self._control, 8)
                if len(said) != 8 or said[7] != orders.INTERRUPT:
                    os._exit(0)
                self.wanted = int.from_bytes(said, "little")
                # The main thread by name: so that a system call it waits in is interrupted too.
                signal.pthread_kill(self._main, signal.SIGINT)
        except BaseException:  # the host is gone, or user code closed the descriptor: nobody can be answered any more
            os._exit(0)

    # -- the past ----------------------------------------------------------------------------------------------------------

    def keep(self, header: wire.Header) -> None:
        """Keep the session as it is between two requests."""
        if self._past is None:
            self._past = load_past().Past(self, self._control)
        self._past.keep(header["at"], header["room"])
        self._past.rest()

    def waiting(self, milliseconds: int) -> bool:
        """Whether a request comes within this time."""
        if self._frames.buffered():
            return True
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def threads(self) -> int:
        """How many threads of ours there are, besides the one that runs the session."""
        return sum(done.locked() for done in self._helpers.values())

    def parked(self) -> bool:
        """Whether the thread that forwards waits in the kernel for output that does not come, so that a copy which lacks it lacks nothing."""
        if self.threads() != 1 or _thread._count() != 1 + self._phantoms or not self._forwarder:
            return False
        if self._peek.poll(0):
            return False
        if self._parked_at == self._relayed:  # nothing came that could have woken it
            return True
        try:
            with open(f"/proc/self/task/{self._forwarder}/syscall", "rb", 0) as file:
                called = file.read(4).split()[0]
        except (OSError, IndexError):
            return False
        if called not in _POLLS or self._peek.poll(0):
            return False
        self._parked_at = self._relayed
        return True

    def copied(self) -> None:
        """In a copy: the threads that were not copied are gone, though the interpreter counts them."""
        self._phantoms += self.threads()
        self._helpers.clear()
        self._wait = select.poll()  # the old one will be in use for ever
        for fd in (self._halted, *self._pipes):
            self._wait.register(fd, select.POLLIN)

    def pause(self) -> bool:
        """End our threads, so that a copy is the whole process; False when one is busy, or others run. :meth:`resume` starts them again."""
        if _thread._count() > self.threads() + self._phantoms or not self.guest._send_lock.acquire(timeout=0.05):
            return False
        self._halting = True
        self.guest._send_lock.release()
        os.write(self._halts, b"x")
        for done in self._helpers.values():
            done.acquire()
            done.release()
        os.read(self._halted, 1)
        return True

    @property
    def descriptor(self) -> int:
        """The connection to the host."""
        return self._frames._read_fd

    def renew(self, frames: int) -> None:
        """Go on with another connection, and without what was in flight on this one."""
        os.set_inheritable(frames, False)
        self._frames = guest.FdChannel(frames)
        self._renewed = True
        for fd in (self._halted, *self._pipes):
            try:
                os.set_blocking(fd, False)
                while os.read(fd, _PIECE):
                    pass
            except OSError:  # empty, or closed by user code
                continue

    def interrupted(self) -> bool:
        """Whether the host wants the running step to stop. Late words about the step before are none about this one."""
        word = None if self._past is None else self._past.word
        return (self.wanted if word is None else word.value) == self._current

    def overtaken(self) -> bool:
        """Whether the word came before the step."""
        return self.interrupted()

    def recv(self) -> wire.Frame:
        """The next frame, waiting for it."""
        if self._child:
            raise RuntimeError("tools cannot be called from a child process")
        frame = self._frames.recv()
        self._begun(frame[0])
        return frame

    def _begun(self, header: wire.Header) -> None:
        if header.get("t") == "run":
            # The thread that forwards must not hold the step to account for what was written before it.
            with self.guest._send_lock:
                self._current, self._running, self._floods = header.get("id", -1), True, {}

    def buffered(self) -> bool:
        """Whether a frame waits that the descriptor does not show."""
        return self._frames.buffered()

    def watch(self, loop: Any, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop whenever a frame may be waiting."""
        self._frames.watch(loop, callback)

    def unwatch(self, loop: Any) -> None:
        """Undo :meth:`watch`."""
        self._frames.unwatch(loop)

    # -- writing ---------------------------------------------------------------------------------------------------------

    def send(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Write one frame, behind what the pipes hold: output keeps its order. The guest's send lock is held."""
        if self._child:
            self._send_from_child(header, blobs)
            return
        for fd, _ in self._peek.poll(0):
            self._relay(fd)
        if header.get("t") == "done":
            self._running = False
        self._frames.send(header, blobs)

    def _relay(self, fd: int) -> None:
        """Send what a pipe holds now, within the step's limit."""
        self._relayed += 1
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # user code closed the descriptors
            self._peek.unregister(fd)
            self._pipes.pop(fd, None)
            return
        number = self._pipes[fd]
        stream = self.guest._stdout if number == 1 else self.guest._stderr
        if len(data) > stream._left:
            stream.truncated = True
            self._floods[number] = self._floods.get(number, 0) + len(data)
            if self._running and self._floods[number] > guest._FLOOD * self.guest._limits["output"]:
                self._end_flood(data[: stream._left], number)
            data = data[: stream._left]
        stream._left -= len(data)
        if data:
            self._frames.send({"t": "out", "s": number}, [data])

    def _end_flood(self, data: bytes, number: int) -> None:
        """Answer the step and end, as for what is printed. Its own code may be in a loop of C's, and the flood a child's: neither is asked."""
        if data:
            self._frames.send({"t": "out", "s": number}, [data])
        error = self.guest._describe(guest.OutputFlood(), "")
        self._frames.send({"t": "done", "id": self._current, "cut": True, "error": error})
        os._exit(0)

    def _forward(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # they are the main thread's
        self._forwarder = _thread.get_native_id()
        while True:
            try:
                ready = self._wait.poll()
                with self.guest._send_lock:
                    if self._halting:
                        return
                    for fd, _ in ready:
                        if fd in self._pipes:
                            self._relay(fd)
                        if fd not in self._pipes and fd != self._halted:
                            self._wait.unregister(fd)
                if not self._pipes:
                    return
            except BaseException:  # the descriptors were closed by user code: there is nothing left to forward
                return

    # -- children of user code -------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        # A forked child has the descriptors and none of the threads. It must not speak for its parent, nor wait for a lock nobody holds.
        self._child = True
        self.guest._send_lock = type(self.guest._send_lock)()
        self.guest._read_lock = type(self.guest._read_lock)()

    def _send_from_child(self, header: wire.Header, blobs: Sequence[wire.Blob]) -> None:
        kind = header.get("t")
        if kind == "out":
            view = memoryview(blobs[0])
            while len(view):
                view = view[os.write(header["s"], view) :]
        elif kind == "done":  # a child that was never told to leave
            os._exit(1 if "error" in header else 0)
        elif kind == "call":
            raise RuntimeError("tools cannot be called from a child process")
