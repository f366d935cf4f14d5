"""The system call wall: an allow-list. What is not named here does not exist for the process.

Most refused calls fail with EPERM, as libraries expect of a container. Calls newer than the list fail with ENOSYS, so that C libraries fall
back to the calls they used before. A few have no use but escape: they end the process.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable

from safeexec_backends._hardening import bpf, libc
from safeexec_backends._hardening.bpf import (
    Between,
    MaskedOneOf,
    OneOf,
    Rule,
    Unless,
    UnlessNull,
    Within,
    WithinOrOneOf,
)
from safeexec_backends._hardening.syscalls import NUMBERS

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h

_PERM = bpf.errno(errno.EPERM)
_NOSYS = bpf.errno(errno.ENOSYS)

# Memory, time, signals of one's own, threads, and files (which files, the file-system walls decide).
_ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close sendfile copy_file_range
open openat openat2 creat access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs readlink readlinkat
getcwd chdir fchdir getdents getdents64 mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
chmod fchmod fchmodat fchmodat2 umask utime utimes utimensat futimesat truncate ftruncate fallocate fadvise64 readahead
fsync fdatasync flock dup dup2 dup3 pipe pipe2
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
munmap mprotect mremap brk msync membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack pause restart_syscall
alarm setitimer getitimer nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
timerfd_create timerfd_settime timerfd_gettime
set_robust_list set_tid_address rseq sched_yield sched_getaffinity getcpu exit exit_group wait4 waitid
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid getpgrp getsid getpriority
getrlimit setrlimit getrusage sysinfo uname getrandom
getsockname getpeername shutdown
""".split()

# No library that belongs in a sandbox makes these calls: the process that makes one is attacking.
_DEADLY = """
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease
bpf perf_event_open userfaultfd keyctl add_key request_key
mount umount2 pivot_root chroot setns unshare open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
open_by_handle_at name_to_handle_at init_module finit_module delete_module kexec_load kexec_file_load reboot
swapon swapoff acct quotactl syslog settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname vhangup
iopl ioperm modify_ldt lookup_dcookie nfsservctl
""".split()

# shutil.copy2 and friends ask for extended attributes and take only "not supported" for a no.
_UNSUPPORTED = """
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
""".split()

# Probed by C libraries, which have another way: clone3 hides its flags behind a pointer no filter can follow.
_ABSENT = "clone3 io_uring_setup io_uring_enter io_uring_register vmsplice".split()

# Modes and times of files. Landlock does not guard them: where it is the only file wall, these calls do nothing and say so to nobody, since
# copying a file is one of them and must not fail.
_ATTRIBUTES = "chmod fchmod fchmodat fchmodat2 utime utimes utimensat futimesat".split()

# CLONE_VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID DETACHED CHILD_SETTID: what a C library's thread needs.
_THREAD_FLAGS = 0x017D0F00
_THREAD = 0x00050F00
"""All that is one for the threads of a process: CLONE_THREAD, SYSVSEM, SIGHAND, FILES, FS and VM. A thread with descriptors of its own, beside the others', would
have as many as the limit allows once more, and what lies in sockets and pipes is memory that no limit counts."""

FORK = 0x01200011
"""CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD: a process of one's own."""
KEEP = FORK | 0x8000
"""The same with CLONE_PARENT: a copy of oneself that is one's sibling."""

_SEND_FLAGS = 0x4040  # MSG_DONTWAIT, MSG_NOSIGNAL
_RECEIVE_FLAGS = 0x162  # MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_WAITALL
_PRCTL = (
    2,
    3,
    15,
    16,
    21,
    23,
    39,
)  # GET_PDEATHSIG, GET_DUMPABLE, SET_NAME, GET_NAME, GET_SECCOMP, CAPBSET_READ, GET_NO_NEW_PRIVS
_FCNTL = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    1030,
    1032,
)  # dup, flags, locks, pipe size: not F_SETOWN, which signals others
_SET_LOCK, _SET_LOCK_WAIT = 6, 7
_CLOSE_RANGE = (0, 4)  # CLOSE_RANGE_CLOEXEC: not CLOSE_RANGE_UNSHARE, which gives a thread descriptors of its own
_FUTEX = (0, 1, 3, 4, 5, 9, 10)  # wait, wake, requeue, compare and requeue, wake and change, the same by bits
_FUTEX_OPERATION = 0xFFFFFE7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_MADV_MERGEABLE = 12
_SOCKET, _SEND_BUFFER, _RECEIVE_BUFFER = 1, 7, 8  # SOL_SOCKET, SO_SNDBUF, SO_RCVBUF
_SET_OPTIONS = (2, 6, 9, 13, 15, 20, 21)  # SO_REUSEADDR, BROADCAST, KEEPALIVE, LINGER, REUSEPORT, RCVTIMEO, SNDTIMEO
_GET_OPTIONS = (
    *_SET_OPTIONS,
    3,
    4,
    _SEND_BUFFER,
    _RECEIVE_BUFFER,
    18,
    30,
    38,
    39,
)  # TYPE, ERROR, RCVLOWAT, ACCEPTCONN, PROTOCOL, DOMAIN
_IOCTL = (
    0x5451,
    0x5450,
    0x5421,
    0x541B,
)  # FIOCLEX, FIONCLEX, FIONBIO, FIONREAD: not TIOCSTI, which types into a terminal


def _rules(own_pid: int) -> dict[str, Rule]:
    return {
        # A process would outlive its cell and is not needed: threads only.
        "clone": Rule((Within(0, _THREAD_FLAGS, _THREAD),), _PERM),
        # A stream pair is already connected; a datagram pair could be addressed to any socket of the host by name.
        "socketpair": Rule((OneOf(0, (1,)), MaskedOneOf(1, 0xF, (1,))), _PERM),
        # SIGKILL to itself ends it here: the first process of a pid namespace would shrug it off, and the host, seeing a SIGKILL it did
        # not send, can take it for the kernel's when memory runs out.
        "kill": Rule((OneOf(0, (own_pid,)), Unless(1, 9, bpf.KILL_PROCESS)), _PERM),
        "tgkill": Rule((OneOf(0, (own_pid,)), Unless(2, 9, bpf.KILL_PROCESS)), _PERM),
        # Not MSG_OOB: out-of-band data of stream sockets let code out of such a filter before (CVE-2025-38236).
        "sendto": Rule((Within(3, _SEND_FLAGS),), _PERM),
        "recvfrom": Rule((Within(3, _RECEIVE_FLAGS),), _PERM),
        # What may lie in a socket is memory that no limit of a process counts: it stays what the machine gives each, megabytes where it lets a program ask.
        # Filters (SO_ATTACH_FILTER, SO_ATTACH_BPF) are programs in the kernel.
        "setsockopt": Rule(
            (
                OneOf(1, (_SOCKET,)),
                Unless(2, _SEND_BUFFER, bpf.errno(0)),
                Unless(2, _RECEIVE_BUFFER, bpf.errno(0)),
                OneOf(2, _SET_OPTIONS),
            ),
            bpf.errno(errno.ENOPROTOOPT),
        ),
        # Not who is at the other end: SO_PEERPIDFD gives a process of the host in hand, SO_PEERCRED its ids.
        "getsockopt": Rule((OneOf(1, (_SOCKET,)), OneOf(2, _GET_OPTIONS)), bpf.errno(errno.ENOPROTOOPT)),
        "close_range": Rule((OneOf(2, _CLOSE_RANGE),), bpf.errno(errno.EINVAL)),
        # Not those that lend a thread's priority on (FUTEX_LOCK_PI and its kind): no library of a sandbox needs them, the C library knows kernels without,
        # and they were ways into the kernel (CVE-2014-3153, CVE-2021-3347).
        "futex": Rule((MaskedOneOf(1, _FUTEX_OPERATION, _FUTEX),), _NOSYS),
        # Not MADV_MERGEABLE: the time of a write tells whether somebody else on the machine has a page with the same contents.
        "madvise": Rule((Unless(2, _MADV_MERGEABLE, bpf.errno(errno.EINVAL)),), _PERM),
        # Not MAP_HUGETLB: huge pages that the host keeps for others. As if there were none.
        "mmap": Rule((MaskedOneOf(3, 0x40000, (0,)),), bpf.errno(errno.ENOMEM)),
        "prlimit64": Rule((OneOf(0, (0, own_pid)),), _PERM),
        "prctl": Rule((OneOf(0, _PRCTL),), _PERM),
        # Each lock on a part of a file is memory of the kernel's that no limit counts. They keep other processes out, never the one that has them, and there is
        # no other one here: to do nothing is all there is to do. Those that belong to a descriptor (F_OFD_SETLK) are as if the kernel had none.
        "fcntl": Rule(
            (
                Unless(1, _SET_LOCK, bpf.errno(0)),
                Unless(1, _SET_LOCK_WAIT, bpf.errno(0)),
                OneOf(1, _FCNTL),
            ),
            bpf.errno(errno.EINVAL),
        ),
        "ioctl": Rule((OneOf(1, _IOCTL),), bpf.errno(errno.ENOTTY)),
    }


# What only those get that need it, and no more of it than they do.
_ON_REQUEST = {
    # Not MSG_OOB, as above.
    "recvmsg": Rule((Within(2, _RECEIVE_FLAGS),), _PERM),
    # MFD_CLOEXEC alone: MFD_HUGETLB is another way to the huge pages that the host keeps for others.
    "memfd_create": Rule((Within(1, 1),), bpf.errno(errno.EINVAL)),
}

# A process that goes on to start others and watch over them needs these, before code of a session runs in it.
_KEEPER = "seccomp sendmsg recvmsg pidfd_open pidfd_send_signal".split()
_NOTIFY = (0xC0502100, 0xC0182101, 0x40182103)  # SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ADDFD
_OWN_LIMITS = tuple(number for number in range(16) if number != 6)
"""Resources whose limits a process may change: not RLIMIT_NPROC, which its keeper sets, since it counts what is kept of its branches as well."""
_STOP = 19


def _keeper_rules() -> dict[str, Rule]:
    anyone = (Between(0, 1),)
    return {
        "clone": Rule((WithinOrOneOf(0, _THREAD_FLAGS, _THREAD, (FORK, KEEP)),), _PERM),
        "kill": Rule(anyone, _PERM),
        "tgkill": Rule(anyone, _PERM),
        "prlimit64": Rule((Between(0, 0),), _PERM),
        "ioctl": Rule((OneOf(1, (*_IOCTL, *_NOTIFY)),), bpf.errno(errno.ENOTTY)),
    }


def _sealing() -> dict[str, bpf.Action]:
    refused: dict[str, bpf.Action] = dict.fromkeys(_KEEPER, _PERM)
    # Its own id is not known: its copies have others. The first process is nobody's: it watches over them.
    others = Between(0, 2)
    deadly = Unless(1, 9, bpf.KILL_PROCESS), Unless(2, 9, bpf.KILL_PROCESS)
    return {
        **refused,
        "clone": Rule((WithinOrOneOf(0, _THREAD_FLAGS, _THREAD, (KEEP,)),), _PERM),
        "kill": Rule((others, deadly[0]), _PERM),
        "tgkill": Rule((others, deadly[1]), _PERM),
        # Its own alone: the others that it could name are states of the session, or of sessions that came of it.
        "prlimit64": Rule((OneOf(0, (0,)), UnlessNull(2, bpf.ALLOW), OneOf(1, _OWN_LIMITS)), _PERM),
        "setrlimit": Rule((OneOf(0, _OWN_LIMITS),), _PERM),
        "ioctl": _rules(1)["ioctl"],
    }


def seal(machine: str = libc.MACHINE) -> list[bpf.Instruction]:
    """A second filter: what takes back from a process that `build` made with `keeper` all that it has beyond the ordinary, but for copying itself,
    as often as the listener of `asking` agrees to.
    """
    actions = {NUMBERS[machine][name]: action for name, action in _sealing().items()}
    return bpf.assemble(ARCHITECTURES[machine], actions, default=bpf.ALLOW, beyond=bpf.ALLOW)


def asking(machine: str = libc.MACHINE) -> list[bpf.Instruction]:
    """A filter by which no process copies itself (`KEEP`), or sends a signal, unless the filter's listener agrees.

    Except SIGSTOP: whom it could stop is stopped, but for itself, which is how a copy comes to rest.
    """
    asked: dict[str, bpf.Action] = {
        "clone": Rule((Unless(0, KEEP, bpf.USER_NOTIF),), bpf.ALLOW),
        "kill": Rule((OneOf(1, (_STOP,)),), bpf.USER_NOTIF),
        "tgkill": Rule((OneOf(2, (_STOP,)),), bpf.USER_NOTIF),
    }
    actions = {NUMBERS[machine][name]: action for name, action in asked.items()}
    return bpf.assemble(ARCHITECTURES[machine], actions, default=bpf.ALLOW, beyond=bpf.ALLOW)


def probe() -> str:
    """Why this wall cannot stand here; empty when it can."""
    if reason := libc.supported():
        return reason
    try:
        # SECCOMP_GET_ACTION_AVAIL asks without changing anything.
        libc.syscall("seccomp", 2, 0, ctypes.create_string_buffer(bpf.KILL_PROCESS.to_bytes(4, "little"), 4))
    except OSError as error:
        return f"the kernel has no seccomp filters ({error.strerror})"
    return ""


def build(own_pid: int, allow: Iterable[str] = (), private_files: bool = True, keeper: bool = False) -> bytes:
    """The filter for a process whose id, in its own pid namespace, is `own_pid`; `allow` names further calls to let through.

    `private_files` is False where the process can name the host's files, having no private root, or has descriptors of some. `keeper`: a process that may start others
    and must be sealed before it runs anyone's code.
    """
    return bpf.encode(program(own_pid, allow, private_files, keeper=keeper))


def program(
    own_pid: int,
    allow: Iterable[str] = (),
    private_files: bool = True,
    machine: str = libc.MACHINE,
    keeper: bool = False,
) -> list[bpf.Instruction]:
    """The same, as instructions."""
    numbers = NUMBERS[machine]
    actions: dict[int, bpf.Action] = dict.fromkeys(numbers.values(), _PERM)
    table: dict[str, bpf.Action] = {
        **dict.fromkeys(_UNSUPPORTED, bpf.errno(errno.EOPNOTSUPP)),
        **dict.fromkeys(_ABSENT, _NOSYS),
        **dict.fromkeys(_DEADLY, bpf.KILL_PROCESS),
        **dict.fromkeys(_ALLOWED, bpf.ALLOW),
        **_rules(own_pid),
        **{name: _ON_REQUEST.get(name, bpf.ALLOW) for name in allow},
    }
    if keeper:
        table |= {**dict.fromkeys(_KEEPER, bpf.ALLOW), **_keeper_rules()}
    if not private_files:
        table |= dict.fromkeys(_ATTRIBUTES, bpf.errno(0))
        table["truncate"] = _PERM  # by path: Landlock guards it from ABI 3 on only
    for name, action in table.items():
        if name in numbers:
            actions[numbers[name]] = action
        elif not any(name in other for other in NUMBERS.values()):
            raise ValueError(f"unknown system call {name}")
    return bpf.assemble(ARCHITECTURES[machine], actions, default=_PERM, beyond=_NOSYS)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def listen(filter: bytes) -> int:
    """Put this thread behind `filter`, and get the descriptor of who answers for it (seccomp_unotify(2)). Raises OSError."""
    buffer = ctypes.create_string_buffer(filter, len(filter))
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER; the descriptor is closed on exec
    return libc.syscall("seccomp", 1, 8, _Program(len(filter) // 8, ctypes.addressof(buffer)))


def apply(filter: bytes) -> None:
    """Put the whole process, every thread of it, behind `filter`, for good. Needs no_new_privs. Raises OSError."""
    buffer = ctypes.create_string_buffer(filter, len(filter))
    fprog = _Program(len(filter) // 8, ctypes.addressof(buffer))
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC: a thread left outside would be a way out.
    thread = libc.syscall("seccomp", 1, 1, fprog)
    if thread != 0:
        raise OSError(errno.ESRCH, f"seccomp: thread {thread} could not be put behind the filter")
