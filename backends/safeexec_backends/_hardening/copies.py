"""Copies of a process, and who may make them: clone(2) without anyone's hooks, and the listener of ``seccomp.asking``."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache
from typing import Any, NamedTuple

from safeexec_backends._hardening import bpf, libc, namespaces, seccomp

# linux/seccomp.h: SECCOMP_IOCTL_NOTIF_RECV, _SEND and _ADDFD, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SECCOMP_ADDFD_FLAG_SETFD
_RECEIVE, _SEND, _ADD, _CONTINUE, _AT = 0xC0502100, 0xC0182101, 0x40182103, 1, 1
# struct seccomp_notif: u64 id; u32 pid, flags; struct seccomp_data { int nr; u32 arch; u64 instruction_pointer, args[6]; }
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")

thread_id_address = namespaces.thread_id_address


def ask(note: int, tid: int | None) -> None:
    """Say something to the listener, in the form of a wish to be copied that it never grants. Raises OSError when it says no."""
    copy(seccomp.KEEP, tid, note)


def copy(flags: int, tid: int | None, note: int = 0) -> int:
    """This process once more: 0 in the copy, its id in the original. Raises OSError.

    `flags` is ``seccomp.FORK`` or ``seccomp.KEEP``, `tid` what :func:`thread_id_address` said, `note` a number that the listener gets to see. Neither
    the C library's nor Python's fork handlers run: the copy is to be exactly what the original is, its random numbers included, and
    nobody's functions are to be called in it. Only for a process with one thread.
    """
    assert flags in (seccomp.FORK, seccomp.KEEP)
    if not tid:
        raise OSError(errno.ENOTSUP, "the C library's thread id was not found")
    return libc.syscall("clone", *_copying(flags, tid, note))


def _copying(flags: int, tid: int, note: int) -> tuple[libc.Argument, ...]:
    # A parent's thread id is not stored (no CLONE_PARENT_SETTID), so its address is free to carry the note.
    order = (tid, 0) if libc.MACHINE == "x86_64" else (0, tid)  # aarch64 takes tls before child_tid
    return (flags, None, note, *order)


class Copier:
    """Has the calling process copied, again and again, with as little as can be between the copy's birth and its rest: every page that it touches is
    copied for it, and whoever waits for it waits for that."""

    def __init__(self, tid: int, channel: int) -> None:
        """`tid` is what :func:`thread_id_address` said; a copy closes `channel` before it rests."""
        self._orders = [libc.prepared("clone", *_copying(seccomp.KEEP, tid, note)) for note in range(8)]
        self._close = libc.prepared("close", channel)

    def __call__(self, note: int) -> int:
        """The copy's id, or, once the copy was woken, 0 in it. Signals that can be blocked should be: one makes the kernel begin the call anew.
        Raises OSError."""
        pid = libc.call(self._orders[note])
        if pid == 0:
            libc.call(self._close)
            _rest()
        elif pid == -1:
            raise libc.failed("clone")
        return pid


def _rest() -> None:
    libc.stop_self()


@cache
def asking() -> bytes:
    """``seccomp.asking``, assembled."""
    return bpf.encode(seccomp.asking())


class Question(NamedTuple):
    """Someone wants to be copied, or to send a signal."""

    id: int
    pid: int
    """The thread that asks, in the pid namespace of who reads this."""
    copies: bool
    first: int
    """The call's first argument: of a signal, the process it is for."""
    note: int


class Listener:
    """Answers whoever wants to be copied, or to send a signal."""

    def __init__(self) -> None:
        """Puts this process, and those it starts from here on, behind ``seccomp.asking``. Raises OSError."""
        self.fd = seccomp.listen(asking())

    def question(self) -> Question | None:
        """The next one; None when whoever asked no longer does."""
        buffer = ctypes.create_string_buffer(_NOTIFICATION.size)
        try:
            libc.syscall("ioctl", self.fd, _RECEIVE, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        fields = _NOTIFICATION.unpack(buffer.raw)
        return Question(fields[0], fields[1], fields[3] == libc.number("clone"), fields[6] & 0xFFFFFFFF, fields[6 + 2])

    def agree(self, question: Question) -> bool:
        """Let the call go on; False when it was given up meanwhile."""
        return self._answer(question.id, 0, _CONTINUE)

    def give(self, question: Question, fd: int, place: int) -> bool:
        """Let whoever asks have `fd` under the number `place`, and nothing else; False when the question was given up meanwhile. Raises OSError."""
        # struct seccomp_notif_addfd: u64 id; u32 flags, srcfd, newfd, newfd_flags
        buffer = ctypes.create_string_buffer(struct.pack("=QIIII", question.id, _AT, fd, place, os.O_CLOEXEC), 24)
        return self._told(_ADD, buffer) and self._answer(question.id, 0, 0)

    def refuse(self, question: Question) -> None:
        """Make the call fail with EPERM."""
        self._answer(question.id, -errno.EPERM, 0)

    def _answer(self, number: int, error: int, flags: int) -> bool:
        # struct seccomp_notif_resp: u64 id; s64 val; s32 error; u32 flags
        buffer = ctypes.create_string_buffer(struct.pack("=QqiI", number, 0, error, flags), 24)
        return self._told(_SEND, buffer)

    def _told(self, request: int, buffer: Any) -> bool:
        """Whether who asked was still there to be answered. Raises OSError."""
        while True:
            try:
                libc.syscall("ioctl", self.fd, request, buffer)
                return True
            except InterruptedError:
                continue  # a signal came (a child has ended), and nothing was done
            except OSError as failure:
                if failure.errno == errno.ENOENT:
                    return False
                raise

    def close(self) -> None:
        """From here on nobody is copied."""
        os.close(self.fd)


def probe() -> str:
    """Why a process behind the walls cannot be copied under control; empty when it can. Puts the caller behind a filter: for a process that ends."""
    try:
        listener = Listener()
    except OSError as error:
        return f"the kernel does not let a system call be asked about ({os.strerror(error.errno or 0)})"
    listener.close()
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in os.uname().release.split(".")[:2])
    return (
        ""
        if (major, minor) >= (5, 9)
        else "a kernel older than Linux 5.9 cannot answer a system call with a descriptor"
    )
