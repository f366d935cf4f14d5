"""System calls that touch no file: clocks, calendar, randomness, environment, heap, exit; and the frame device."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from . import errno as e
from .abi import MAX_PAGES, PAGE, Trap
from .errno import Errno
from .fs_tree import PATH_MAX
from .host import MAX_FRAME, Exited, Host, Killed, ProtocolViolation
from .syscalls import HOST, WASI, plain, s32, syscall, wasi

_MAX_RANDOM = 1 << 20


@wasi("clock_time_get", "ili")
def clock_time_get(host: Host, clock: int, _precision: int, result: int) -> None:
    read = host.clocks.get(clock)
    if read is None:
        raise Errno(e.EINVAL)
    host.memory.set_u64(result, read())


@wasi("clock_res_get", "ii")
def clock_res_get(host: Host, clock: int, result: int) -> None:
    if clock not in host.clocks:
        raise Errno(e.EINVAL)
    host.memory.set_u64(result, 1000)


@plain("emscripten_date_now", "", "d")
def date_now(host: Host) -> float:
    return host.clocks[0]() / 1e6


@plain("emscripten_get_now", "", "d")
def get_now(host: Host) -> float:
    return host.clocks[1]() / 1e6


@wasi("random_get", "ii")
def random_get(host: Host, buffer: int, length: int) -> None:
    host.memory.check(buffer, length)
    host.draws += 1
    for start in range(0, length, _MAX_RANDOM):
        if host.killed:
            raise Killed
        host.memory.write(buffer + start, host.random(min(_MAX_RANDOM, length - start)))


# Environment and identity


def _environment(host: Host) -> list[bytes]:
    return [f"{name}={value}".encode() + b"\0" for name, value in host.environment.items()]


@wasi("environ_sizes_get", "ii")
def environ_sizes_get(host: Host, count: int, size: int) -> None:
    items = _environment(host)
    host.memory.set_u32(count, len(items))
    host.memory.set_u32(size, sum(map(len, items)))


@wasi("environ_get", "ii")
def environ_get(host: Host, pointers: int, buffer: int) -> None:
    for item in _environment(host):
        host.memory.write(buffer, item)
        host.memory.set_u32(pointers, buffer)
        pointers += 4
        buffer += len(item)


@syscall("__syscall_getuid32_js", "")
def getuid(_host: Host) -> int:
    return 0


@syscall("__syscall_umask_js", "i")
def umask(host: Host, mask: int) -> int:
    before, host.files.umask = host.files.umask, mask & 0o777
    return before


# Heap


@plain("emscripten_get_heap_max", "", "i")
def heap_max(host: Host) -> int:
    return min(host.max_pages, MAX_PAGES) * PAGE


@plain("emscripten_resize_heap", "i", "i")
def resize_heap(host: Host, wanted: int) -> int:
    host.memory.refresh()
    now = host.memory.size // PAGE
    need = (wanted + PAGE - 1) // PAGE
    if need > host.max_pages:
        return 0
    if need <= now:
        return 1
    # A little more than asked for: programs that grow in small steps would come back for every one of them.
    for pages in (min(host.max_pages, max(need, now + now // 20)), need):
        if host.memory.grow(pages - now):
            host.grown(now * PAGE)
            return 1
    return 0


# Signals, exit, dynamic loading


@syscall("_setitimer_js", "id")
def setitimer(_host: Host, _which: int, _timeout: float) -> int:
    raise Errno(e.ENOSYS)  # the C library's; `signal` has the frame device's (guest_alarms.py)


@plain("proc_exit", "i", namespace=WASI)
def proc_exit(_host: Host, code: int) -> None:
    raise Exited(f"exit({code})")


@plain("exit", "i")
def exit_(_host: Host, code: int) -> None:
    raise Exited(f"exit({code})")


@plain("_abort_js")
def abort(_host: Host) -> None:
    raise Exited("abort()")


@plain("__assert_fail", "iiii")
def assert_fail(host: Host, condition: int, _file: int, _line: int, _function: int) -> None:
    text = host.memory.string(condition, 1000) or b""
    raise Exited(f"assertion failed: {text.decode(errors='replace')}")


# Every library that there is was linked ahead of time (image/merge.py): to open one is to know its path, a symbol is an index in
# the table of functions. Nothing a guest writes into the handle can make it more: it could call those functions anyway.

_DSO_NAME = 36  # offset of the path in musl's struct dso, as emscripten's dynlink.c declares it


def _library(host: Host, handle: int) -> Mapping[str, int] | None:
    path = host.memory.string(handle + _DSO_NAME, PATH_MAX) or b""
    return host.libraries.get(path.decode(errors="replace").lstrip("/"))


@plain("_dlopen_js", "i", "i")
def dlopen(host: Host, handle: int) -> int:
    return int(_library(host, handle) is not None)


@plain("_dlsym_js", "iii", "i")
def dlsym(host: Host, handle: int, name: int, _index: int) -> int:
    symbols = _library(host, handle)
    text = host.memory.string(name, PATH_MAX) or b""
    return symbols.get(text.decode(errors="replace"), 0) if symbols else 0


# The frame device (image/helpers.wat)


@plain("part", "iii", namespace=HOST)
def part(host: Host, pointer: int, length: int, more: int) -> None:
    if host.parts_size + length > MAX_FRAME:  # before it is copied
        raise ProtocolViolation(f"a frame of more than {MAX_FRAME} bytes")
    host.part(host.memory.read(pointer, length), more)


@plain("wait", "i", "i", namespace=HOST)
def wait(host: Host, milliseconds: int) -> int:
    return host.wait(s32(milliseconds) / 1000)


@plain("reply_size", "", "i", namespace=HOST)
def reply_size(host: Host) -> int:
    return host.receive()


@plain("reply", "ii", namespace=HOST)
def reply(host: Host, pointer: int, size: int) -> None:
    host.memory.check(pointer, size)
    for buffer in host.take(size):
        host.memory.write(pointer, buffer)
        pointer += len(buffer)


@plain("alarm", "dd", "d", namespace=HOST)
def alarm(host: Host, seconds: float, interval: float) -> float:
    return host.alarm(seconds, interval)


@plain("missing", "i", namespace=HOST)
def missing(host: Host, index: int) -> None:
    name = host.missing[index] if index < len(host.missing) else "?"
    raise Trap(f"the guest called {name}, which does not exist without JavaScript")


@plain("sleep", "d", namespace=HOST)
def sleep(host: Host, milliseconds: float) -> None:
    host.sleep(milliseconds / 1000 if milliseconds == milliseconds else 0.0)


_TIMER_ABSTIME = 1


@wasi("clock_sleep", "iiii", namespace=HOST)
def clock_sleep(host: Host, clock: int, flags: int, wanted: int, left: int) -> None:
    """clock_nanosleep: 0, or EINTR when the host interrupts."""
    read = host.clocks.get(clock)
    seconds, nanoseconds = struct.unpack("<qi", host.memory.read(wanted, 12))  # struct timespec
    if read is None or seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
        raise Errno(e.EINVAL)
    duration = seconds + nanoseconds / 1e9
    if flags & _TIMER_ABSTIME:
        duration -= read() / 1e9
    remaining = host.sleep(duration)
    if remaining > 0:
        if left and not flags & _TIMER_ABSTIME:
            whole = int(remaining)
            host.memory.write(left, struct.pack("<qi", whole, int((remaining - whole) * 1e9)))
        raise Errno(e.EINTR)
