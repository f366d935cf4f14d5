"""The system call filter: what the kernel would answer, for both machines, and that it holds in a process."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
import stat
import sys
from pathlib import Path

import pytest

from safeexec_backends._hardening import bpf, libc, privileges, seccomp
from safeexec_backends._hardening.syscalls import NUMBERS
from safeexec_backends.local import cell
from tests.hardening.child import in_child
from tests.hardening.filters import evaluate

MACHINES = ["x86_64", "aarch64"]
PERM, NOSYS = bpf.errno(errno.EPERM), bpf.errno(errno.ENOSYS)
PID = 4321


def answer(machine: str, name: str | int, *arguments: int, private_files: bool = True) -> int:
    program = seccomp.program(PID, private_files=private_files, machine=machine)
    number = NUMBERS[machine][name] if isinstance(name, str) else name
    return evaluate(program, seccomp.ARCHITECTURES[machine], number, arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name", ["read", "openat", "mmap", "futex", "clock_gettime", "getrandom", "exit_group", "statx", "epoll_pwait"]
)
def test_ordinary_calls_pass(machine: str, name: str) -> None:
    assert answer(machine, name) == bpf.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    "execve execveat socket connect bind listen accept accept4 sendmsg recvmsg setuid setgid setgroups shmget mq_open msgget semget "
    "memfd_create memfd_secret pidfd_open pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo personality seccomp "
    "landlock_restrict_self sched_setaffinity sched_setscheduler setpriority ioprio_set capset setsid setpgid mknodat fchownat "
    "fanotify_init inotify_init1 signalfd4 timer_create io_setup splice tee".split(),
)
def test_what_is_not_named_fails(machine: str, name: str) -> None:
    assert answer(machine, name) == PERM


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 335), ("aarch64", 245)])
def test_a_number_that_is_no_call_fails(machine: str, number: int) -> None:
    assert number not in NUMBERS[machine].values() and answer(machine, number) == PERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name", "ptrace process_vm_readv bpf mount unshare setns userfaultfd keyctl pivot_root chroot".split()
)
def test_attacks_end_the_process(machine: str, name: str) -> None:
    assert answer(machine, name) == bpf.KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_with_another_way_seem_absent(machine: str) -> None:
    for name in ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert answer(machine, name) == NOSYS
    for number in (max(NUMBERS[machine].values()) + 1, 500, 0x3FFFFFFF):
        assert answer(machine, number) == NOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_other_number_spaces_end_the_process(machine: str) -> None:
    for number in (0x40000000, 0x40000001, 0x80000000, 0xFFFFFFFF):
        assert answer(machine, number) == bpf.KILL_PROCESS
    program = seccomp.program(PID, machine=machine)
    for arch in (0x40000003, 0x40000028, 0xC000003E ^ 1, 0):  # i386, arm
        assert evaluate(program, arch, 1) == bpf.KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_only_threads_are_cloned(machine: str) -> None:
    thread = 0x003D0F00
    assert answer(machine, "clone", thread) == bpf.ALLOW
    assert answer(machine, "clone", thread | 0x00400000) == bpf.ALLOW  # musl's
    assert answer(machine, "clone", 17) == PERM
    assert answer(machine, "clone", 0x4111) == PERM  # vfork
    for bit in (
        0x10000000,
        0x20000000,
        0x40000000,
        0x00020000,
        0x08000000,
        0x04000000,
        0x02000000,
        0x2000,
        0x00800000,
        0x8000,
        0x80000000,
    ):
        assert answer(machine, "clone", thread | bit) == PERM, hex(bit)
    for bit in (
        0x10000,
        0x40000,
        0x800,
        0x400,
        0x200,
        0x100,
    ):  # what threads have in common: descriptors, folder, memory and so on
        assert answer(machine, "clone", thread & ~bit) == PERM, hex(bit)


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine: str) -> None:
    assert answer(machine, "socketpair", 1, 1) == bpf.ALLOW
    assert answer(machine, "socketpair", 1, 1 | 0o2000000 | 0o4000) == bpf.ALLOW
    for family, kind in ((1, 2), (1, 5), (2, 1), (16, 3), (1, 2 | 0o2000000)):
        assert answer(machine, "socketpair", family, kind) == PERM
    assert answer(machine, "mmap", 0, 4096, 3, 0x22) == answer(machine, "mmap", 0, 4096, 3, 0x20022) == bpf.ALLOW
    for flags in (0x40022, 0x15 << 26 | 0x40022, 1 << 32 | 0x40022):  # the host's huge pages, of any size
        assert answer(machine, "mmap", 0, 4096, 3, flags) == bpf.errno(errno.ENOMEM)
    assert answer(machine, "kill", PID, 15) == answer(machine, "tgkill", PID, PID, 15) == bpf.ALLOW
    assert answer(machine, "kill", PID, 9) == answer(machine, "tgkill", PID, PID, 9) == bpf.KILL_PROCESS
    assert answer(machine, "kill", 1, 9) == answer(machine, "tgkill", 1, 1, 9) == PERM
    for name in ("kill", "tgkill"):
        assert answer(machine, name, PID) == bpf.ALLOW
        for pid in (1, 0, -1, -PID, PID + 1):
            assert answer(machine, name, pid) == PERM
    assert answer(machine, "prlimit64", 0) == answer(machine, "prlimit64", PID) == bpf.ALLOW
    assert answer(machine, "prlimit64", 1) == PERM
    assert answer(machine, "prctl", 15) == bpf.ALLOW
    for option in (1, 4, 8, 22, 24, 26, 28, 35, 36, 38, 47, 59, 0x59616D61):
        assert answer(machine, "prctl", option) == PERM
    assert answer(machine, "fcntl", 3, 3) == bpf.ALLOW
    for command in (8, 10, 15, 1026, 1031, 1033):  # owner, signal, notify, pipe size, seals
        assert answer(machine, "fcntl", 3, command) == bpf.errno(errno.EINVAL)
    for command in (6, 7):  # locks for the process: as if they were taken, since nobody else is there to take them
        assert answer(machine, "fcntl", 3, command) == bpf.errno(0)
    for command in (36, 37, 38):  # locks for the descriptor
        assert answer(machine, "fcntl", 3, command) == bpf.errno(errno.EINVAL)
    assert answer(machine, "close_range", 3, 2**32 - 1, 0) == answer(machine, "close_range", 3, 9, 4) == bpf.ALLOW
    for flags in (2, 6, 8, 2 | 1 << 32):
        assert answer(machine, "close_range", 3, 9, flags) == bpf.errno(errno.EINVAL)
    assert answer(machine, "ioctl", 0, 0x5421) == bpf.ALLOW
    assert answer(machine, "ioctl", 0, 0x5412) == answer(machine, "ioctl", 0, 0x541C) == bpf.errno(errno.ENOTTY)


@pytest.mark.parametrize("machine", MACHINES)
def test_options_of_sockets_are_few(machine: str) -> None:
    absent = bpf.errno(errno.ENOPROTOOPT)
    for option in (2, 9, 13, 20, 21):
        assert answer(machine, "setsockopt", 3, 1, option) == answer(machine, "getsockopt", 3, 1, option) == bpf.ALLOW
    for option in (3, 4, 7, 8, 38, 39):
        assert answer(machine, "getsockopt", 3, 1, option) == bpf.ALLOW
    for option in (7, 8):  # how much may lie in one: what a program asks for is not what it gets
        assert answer(machine, "setsockopt", 3, 1, option) == bpf.errno(0)
    for option in (16, 26, 27, 32, 33, 36, 42, 44, 50, 51, 52, 60, 61, 76, 83, 1 << 31):
        assert answer(machine, "setsockopt", 3, 1, option) == absent
    for option in (17, 26, 31, 55, 56, 57, 59, 71, 77):
        assert answer(machine, "getsockopt", 3, 1, option) == absent
    for level in (0, 6, 41, 270, 271, 2, 2**32 - 1):
        assert answer(machine, "setsockopt", 3, level, 7) == answer(machine, "getsockopt", 3, level, 3) == absent


@pytest.mark.parametrize("machine", MACHINES)
def test_waiting_is_all_that_futexes_are_for(machine: str) -> None:
    for operation in (0, 1, 3, 4, 5, 9, 10):
        for flags in (0, 0x80, 0x100, 0x180):
            assert answer(machine, "futex", 0, operation | flags) == bpf.ALLOW
    for operation in (2, 6, 7, 8, 11, 12, 13, 14, 0x200, 1 << 31):
        for flags in (0, 0x80, 0x100, 0x180):
            assert answer(machine, "futex", 0, operation | flags) == NOSYS
    assert answer(machine, "madvise", 0, 4096, 12) == bpf.errno(errno.EINVAL)
    for advice in (0, 4, 8, 9, 14, 15):
        assert answer(machine, "madvise", 0, 4096, advice) == bpf.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_modes_and_times_have_no_effect_where_host_files_can_be_named(machine: str) -> None:
    for name in ("fchmod", "fchmodat", "utimensat"):
        assert answer(machine, name) == bpf.ALLOW
        assert answer(machine, name, private_files=False) == bpf.errno(0)
    assert answer(machine, "truncate", private_files=False) == PERM


def test_further_calls_can_be_allowed_and_unknown_names_are_an_error() -> None:
    program = seccomp.program(PID, ["memfd_create"], machine="x86_64")
    assert evaluate(program, seccomp.ARCHITECTURES["x86_64"], NUMBERS["x86_64"]["memfd_create"]) == bpf.ALLOW
    with pytest.raises(ValueError, match="opne"):
        seccomp.program(PID, ["opne"], machine="x86_64")


@pytest.mark.parametrize("machine", MACHINES)
def test_further_calls_do_no_more_than_they_were_allowed_for(machine: str) -> None:
    program = seccomp.program(PID, ["memfd_create", "recvmsg"], machine=machine)

    def asked(name: str, *arguments: int) -> int:
        return evaluate(program, seccomp.ARCHITECTURES[machine], NUMBERS[machine][name], arguments)

    for flags in (0, os.MFD_CLOEXEC):
        assert asked("memfd_create", 1, flags) == bpf.ALLOW
    for flags in (os.MFD_HUGETLB, os.MFD_HUGETLB | os.MFD_CLOEXEC | os.MFD_HUGE_2MB, os.MFD_ALLOW_SEALING, 0x10):
        assert asked("memfd_create", 1, flags) == bpf.errno(errno.EINVAL)
    assert asked("recvmsg", 3, 1, 0) == asked("recvmsg", 3, 1, socket.MSG_DONTWAIT) == bpf.ALLOW
    assert asked("recvmsg", 3, 1, socket.MSG_OOB) == PERM


@pytest.mark.parametrize("machine", MACHINES)
def test_every_jump_of_the_program_stays_inside(machine: str) -> None:
    program = seccomp.program(PID, machine=machine)
    for place, instruction in enumerate(program):
        if instruction.code & 7 == 5:
            reach = [instruction.k] if instruction.code == 5 else [instruction.yes, instruction.no]
            assert all(0 <= jump <= 0xFFFFFFFF and place + 1 + jump < len(program) for jump in reach)
            assert instruction.code == 5 or max(reach) <= 255
    assert program[-1].code == 6
    assert len(bpf.encode(program)) == 8 * len(program)


def test_the_tables_agree_with_this_machines_headers() -> None:
    header = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    if not os.path.exists(header):
        pytest.skip("the kernel's headers are not installed")
    with open(header) as file:
        defined = [line.split() for line in file if line.startswith("#define __NR_")]
    assert len(defined) > 300
    for _, name, number in defined:
        assert NUMBERS["x86_64"].get(name[5:]) == int(number), name


def test_the_table_of_aarch64_agrees_with_the_headers_of_any_machine() -> None:
    """asm-generic/unistd.h, which aarch64 takes as it is, belongs to the kernel's headers on every processor."""
    header = "/usr/include/asm-generic/unistd.h"
    if not os.path.exists(header):
        pytest.skip("the kernel's headers are not installed")
    with open(header) as file:
        text = file.read()
    # 3264: one number, two names, of which a 64-bit machine's has no 64.
    defined = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.M)}
    defined["newfstatat"] = defined.pop("fstatat")
    # Numbers that are each machine's own begin at 244; those with 64-bit times are 32-bit machines'.
    others = {"arch_specific_syscall", "syscalls", "sync_file_range2"} | {n for n in defined if n.endswith("time64")}
    defined = {name: number for name, number in defined.items() if name not in others}
    assert len(defined) > 300
    for name, number in defined.items():
        if number <= max(NUMBERS["aarch64"].values()):
            assert NUMBERS["aarch64"].get(name) == number, name


@pytest.mark.skipif(bool(seccomp.probe()), reason="no seccomp here")
def test_the_filter_holds_in_every_thread_of_a_process() -> None:
    def attempt() -> list[object]:
        import threading

        gate, results = threading.Event(), []

        def late() -> None:
            gate.wait()
            try:
                os.execv("/nowhere", ["x"])
            except OSError as error:
                results.append(error.errno)

        thread = threading.Thread(target=late)
        thread.start()  # before the filter: TSYNC must reach it
        privileges.no_new_privileges()
        seccomp.apply(seccomp.build(os.getpid()))
        gate.set()
        thread.join()
        late()
        return [*results, os.getpid() == libc.syscall("getpid")]

    assert in_child(attempt) == [errno.EPERM, errno.EPERM, True]


@pytest.mark.skipif(bool(seccomp.probe()), reason="no seccomp here")
@pytest.mark.parametrize("pinned", [False, True])
def test_a_descriptor_of_the_hosts_is_not_enough_to_change_its_file(pinned: bool, tmp_path: Path) -> None:
    """A worker holds its image open, whose owner may be the user that it runs as: it could shut the image for all, or date it back."""
    image = tmp_path / "image"
    image.write_bytes(b"code")
    image.chmod(0o600)
    os.utime(image, (1000, 1000))
    plan = cell.Plan()
    plan.pinned = (os.open(image, os.O_RDONLY),) if pinned else ()

    def attempt() -> object:
        fd = os.open(image, os.O_RDONLY)
        privileges.no_new_privileges()
        seccomp.apply(cell.strict(plan, os.getpid()))
        os.fchmod(fd, 0)
        os.utime(fd, (0, 0))
        return None

    in_child(attempt)
    found = image.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == ((0o600, 1000) if pinned else (0, 0))
    for fd in plan.pinned:
        os.close(fd)


@pytest.mark.skipif(bool(seccomp.probe()), reason="no seccomp here")
def test_the_filter_needs_no_new_privs_and_says_so() -> None:
    def attempt() -> object:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        try:
            seccomp.apply(seccomp.build(os.getpid()))
        except OSError as error:
            return [error.errno, "seccomp" in str(error)]
        return "applied"

    if os.getuid() != 0:
        pytest.skip("needs root to lose it")
    assert in_child(attempt) == [errno.EACCES, True]


@pytest.mark.skipif(sys.platform != "linux", reason="n/a: the filters are Linux's")
def test_probe_tells_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "MACHINE", "riscv64")
    assert "riscv64" in seccomp.probe()


def _together(first: int, second: int) -> int:
    """What the kernel does with two filters' answers: the sternest counts, of equals the later filter's."""
    order = {bpf.KILL_PROCESS: 0, 0x00050000: 1, bpf.USER_NOTIF: 2, bpf.ALLOW: 3}
    return second if order[second & 0xFFFF0000] <= order[first & 0xFFFF0000] else first


_WORDS = (0, 1, 2, 3, 6, 9, 17, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, seccomp.FORK, seccomp.KEEP, 0x3D0F00, 0x5451, 0xC0502100, 0xC0182101, 2**32 + 1)  # fmt: skip
_SECOND = (0, 1, 6, 9, 0x5451, 0xC0502100, 0xC0182101)


@pytest.mark.parametrize("machine", NUMBERS)
def test_what_a_process_that_can_be_copied_may_do_beyond_the_ordinary(machine: str) -> None:
    arch = seccomp.ARCHITECTURES[machine]
    ordinary, wide, seal = (
        seccomp.program(1, machine=machine),
        seccomp.program(1, machine=machine, keeper=True),
        seccomp.seal(machine),
    )
    names = {number: name for name, number in NUMBERS[machine].items()}
    more: set[tuple[str, int]] = set()
    other: set[tuple[str, int, int]] = set()
    for number, name in names.items():
        for arguments in itertools.product(_WORDS, _SECOND, (0, 9, 2**32)):
            found = _together(evaluate(wide, arch, number, arguments), evaluate(seal, arch, number, arguments))
            wanted = evaluate(ordinary, arch, number, arguments)
            if found == bpf.ALLOW != wanted:
                more.add((name, arguments[0] & 0xFFFFFFFF))
            elif found != wanted:
                other.add((name, found, wanted))
            if arguments[name == "prlimit64"] & 0xFFFFFFFF == 6 and (
                name == "setrlimit" or (name == "prlimit64" and arguments[2])
            ):
                assert found != bpf.ALLOW, arguments  # RLIMIT_NPROC
            if name in ("kill", "tgkill", "prlimit64") and arguments[0] & 0xFFFFFFFF in (1, 0x80000000, 0xFFFFFFFF):
                assert found != bpf.ALLOW, arguments  # neither the process that watches, nor all at once
    others = {2, 3, 6, 9, 17, 0x7FFFFFFF, seccomp.FORK, seccomp.KEEP, 0x3D0F00, 0x5451}
    assert more == {
        ("clone", seccomp.KEEP),
        *((name, pid) for name in ("kill", "tgkill") for pid in others),  # which are asked about
    }
    # Less: its keeper's id is not its own, and the limit on processes is its keeper's to set.
    assert {name for name, _, _ in other} <= {"kill", "tgkill", "prlimit64", "setrlimit"}
    assert all(found != bpf.ALLOW for _, found, _ in other)


@pytest.mark.parametrize("machine", NUMBERS)
def test_only_copies_and_signals_are_asked_about(machine: str) -> None:
    program, arch = seccomp.asking(machine), seccomp.ARCHITECTURES[machine]
    clone = NUMBERS[machine]["clone"]
    assert evaluate(program, arch, clone, [seccomp.KEEP]) == bpf.USER_NOTIF
    for name, place in (("kill", 1), ("tgkill", 2)):
        for number in (0, 2, 9, 15, 18, 19, 64):
            found = evaluate(program, arch, NUMBERS[machine][name], [5] * place + [number])
            assert found == (bpf.ALLOW if number == 19 else bpf.USER_NOTIF)
    for flags in (seccomp.FORK, 0x3D0F00, 17, 0):
        assert evaluate(program, arch, clone, [flags]) == bpf.ALLOW
    assert evaluate(program, arch, clone + 1, [seccomp.KEEP]) == bpf.ALLOW
    assert evaluate(program, 0x40000003, clone) == bpf.KILL_PROCESS
