"""The container's seccomp profile: an allow-list of what Python programs and their child processes call.

In the format of the Open Container Initiative's runtime specification (config-linux, "seccomp") as docker takes it. What is not named is refused with
EPERM. Old daemons' own profile lets io_uring and ptrace through, so the profile never depends on the daemon's.

Left out on purpose, with what each would open: io_uring_* (a second way to every call, past the filter), ptrace and process_vm_* (other processes'
memory), bpf, perf_event_open, userfaultfd, keyctl and its kind, add_key (kernel attack surface with a long record of defects), mount, umount2,
pivot_root, chroot, move_mount and the rest of the mount interface, unshare, setns and clone with namespace flags (user namespaces bring capabilities
back), init_module, kexec, reboot, swapon, quotactl, name_to_handle_at and open_by_handle_at (files past the mount), modify_ldt, vm86, personality,
acct, syslog, settimeofday, sethostname. seccomp itself is allowed: it can only take away.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat
fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents
getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr llistxattr lremovexattr
lseek lsetxattr lstat memfd_create mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat
sync_file_range tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev ioctl pipe pipe2
"""
_MEMORY = """
brk madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
get_mempolicy set_mempolicy mbind map_shadow_stack
"""
_PROCESSES = """
alarm arch_prctl capget capset clock_getres clock_gettime clock_nanosleep execve execveat exit exit_group fork futex futex_waitv get_robust_list
get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
getrusage getsid gettid gettimeofday getuid kill nanosleep pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer
setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack sysinfo tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill uname vfork wait4 waitid
"""
_MESSAGES = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
getpeername getsockname getsockopt listen poll ppoll pselect6 select shutdown signalfd
signalfd4 socketpair mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
shmat shmctl shmdt shmget
"""

# CLONE_NEWTIME is 0x80 and lies among the bits of the exit signal for clone: only clone3 takes it, and that is refused.
_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together. Source: include/uapi/linux/sched.h."""
_TIOCSTI = 0x5412
_SOL_SOCKET, _SO_LINGER = 1, 13
_WORD = 0xFFFFFFFF
_ENOSYS, _EAFNOSUPPORT = 38, 97
_MSG_OOB = 1
_WITHOUT: tuple[tuple[str, int, int], ...] = (
    # Without MSG_OOB: urgent data of local sockets was a way into the kernel (CVE-2025-38236), and nothing here uses it.
    *((name, 3, _MSG_OOB) for name in ("sendto", "recvfrom", "sendmmsg", "recvmmsg")),
    *((name, 2, _MSG_OOB) for name in ("sendmsg", "recvmsg")),
    # Without MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB: huge pages that the host keeps for others count in no container's memory.
    ("mmap", 3, 0x40000),
    ("memfd_create", 1, 0x4),
    ("shmget", 2, 0o4000),
)
"""Calls, which of their arguments holds flags, and the flag that is refused."""
_UNIX, _INET = 1, (2, 10)
"""AF_UNIX, AF_INET, AF_INET6. Not AF_VSOCK (it reaches the hypervisor), AF_ALG, AF_NETLINK, AF_PACKET and the rare protocols."""
_TYPE = 0xF
_PROTOCOLS = ((1, 0), (1, 6), (2, 0), (2, 17))
"""Of the Internet's families, TCP and UDP: type and protocol. What waits in a socket for ICMP is memory that the kernel counts nowhere, gigabytes of it;
and to ask for SCTP, DCCP or MPTCP has the kernel load them."""


def allowed() -> tuple[str, ...]:
    """The names of calls that are allowed whatever their arguments."""
    names = {name for text in (_FILES, _MEMORY, _PROCESSES, _MESSAGES) for name in text.split()}
    return tuple(sorted(names - {"ioctl", "socketpair", *(name for name, _, _ in _WITHOUT)}))


def _compared(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _unless(name: str, index: int, value: int) -> list[dict[str, Any]]:
    """Allow a call whose argument, in the 32 bits of it that the kernel looks at, is another. "Not equal" compares 64, of which the upper ones are the
    caller's to choose: so one rule for each bit in which it may differ."""
    return [
        {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [_compared(index, 1 << bit, ~value & 1 << bit)]}
        for bit in range(32)
    ]


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


@cache
def profile(loopback: bool = True) -> str:
    """The profile as JSON text; `loopback`: with sockets for TCP and UDP, which have a network namespace of nothing but the loopback interface."""
    rules: list[dict[str, Any]] = [
        {"names": list(allowed()), "action": "SCMP_ACT_ALLOW"},
        # Threads and processes, but no new namespace.
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [_compared(0, _NAMESPACES, 0)],
        },
        # Its flags lie in memory, where no filter can see them. The C library falls back to clone when it is not there.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        # What a session writes is in memory; these would have the host write all that waits for its own disks, again and again. As if it were done.
        {"names": ["sync", "syncfs"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        # Pairs of other families are refused by most of them only after the kernel has loaded and made one.
        *(
            {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [_equal(0, _UNIX)]}
            for name in ("socket", "socketpair")
        ),
        *(
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [_equal(0, family), _compared(1, _TYPE, kind), _equal(2, protocol)],
            }
            for family in (_INET if loopback else ())
            for kind, protocol in _PROTOCOLS
        ),
        # As a kernel without these families says it, which programs know.
        *(
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": _EAFNOSUPPORT, "args": [_equal(0, family)]}
            for family in (() if loopback else _INET)
        ),
        *(
            {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [_compared(index, flag, 0)]}
            for name, index, flag in _WITHOUT
        ),
        # TIOCSTI types into the terminal of whoever started the container, were one attached.
        *_unless("ioctl", 1, _TIOCSTI),
        # A connection with SO_LINGER keeps whoever drops the last descriptor of it waiting. Sent along to the host, over the socket for frames, that is the
        # host, for as long as the guest said, past every limit. Programs are told that it is done.
        *_unless("setsockopt", 1, _SOL_SOCKET),
        *_unless("setsockopt", 2, _SO_LINGER),
        {
            "names": ["setsockopt"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 0,
            "args": [_compared(1, _WORD, _SOL_SOCKET), _compared(2, _WORD, _SO_LINGER)],
        },
    ]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            # Only the machine's own instruction set: 32-bit and x32 calls have other numbers and would pass beside the list.
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
            ],
            "syscalls": rules,
        },
        separators=(",", ":"),
    )
