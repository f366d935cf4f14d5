"""Error numbers as programs know them from Linux.

Emscripten's C library numbers errors as WASI does: a missing file is 44 there, and a program that prints what went wrong would print that. The C library
keeps its numbers, which its compiled code is full of; they are exchanged where CPython makes an exception of one (helpers.wat), in `errno`, in `os.strerror` and in the table by
which OSError chooses its subclass.
"""

from __future__ import annotations

import itertools
import json
from typing import Final

from .boot import BootError, Interpreter

_LINUX: Final = """
    E2BIG 7 EACCES 13 EADDRINUSE 98 EADDRNOTAVAIL 99 EADV 68 EAFNOSUPPORT 97 EAGAIN 11 EALREADY 114 EBADE 52 EBADF 9 EBADFD 77 EBADMSG 74 EBADR 53
    EBADRQC 56 EBADSLT 57 EBFONT 59 EBUSY 16 ECANCELED 125 ECHILD 10 ECHRNG 44 ECOMM 70 ECONNABORTED 103 ECONNREFUSED 111 ECONNRESET 104 EDEADLK 35
    EDEADLOCK 35 EDESTADDRREQ 89 EDOM 33 EDOTDOT 73 EDQUOT 122 EEXIST 17 EFAULT 14 EFBIG 27 EHOSTDOWN 112 EHOSTUNREACH 113 EHWPOISON 133 EIDRM 43 EILSEQ 84
    EINPROGRESS 115 EINTR 4 EINVAL 22 EIO 5 EISCONN 106 EISDIR 21 EISNAM 120 EKEYEXPIRED 127 EKEYREJECTED 129 EKEYREVOKED 128 EL2HLT 51 EL2NSYNC 45
    EL3HLT 46 EL3RST 47 ELIBACC 79 ELIBBAD 80 ELIBEXEC 83 ELIBMAX 82 ELIBSCN 81 ELNRNG 48 ELOOP 40 EMEDIUMTYPE 124 EMFILE 24 EMLINK 31 EMSGSIZE 90
    EMULTIHOP 72 ENAMETOOLONG 36 ENAVAIL 119 ENETDOWN 100 ENETRESET 102 ENETUNREACH 101 ENFILE 23 ENOANO 55 ENOBUFS 105 ENOCSI 50 ENODATA 61 ENODEV 19
    ENOENT 2 ENOEXEC 8 ENOKEY 126 ENOLCK 37 ENOLINK 67 ENOMEDIUM 123 ENOMEM 12 ENOMSG 42 ENONET 64 ENOPKG 65 ENOPROTOOPT 92 ENOSPC 28 ENOSR 63 ENOSTR 60
    ENOSYS 38 ENOTBLK 15 ENOTCONN 107 ENOTDIR 20 ENOTEMPTY 39 ENOTNAM 118 ENOTRECOVERABLE 131 ENOTSOCK 88 ENOTSUP 95 ENOTTY 25 ENOTUNIQ 76 ENXIO 6
    EOPNOTSUPP 95 EOVERFLOW 75 EOWNERDEAD 130 EPERM 1 EPFNOSUPPORT 96 EPIPE 32 EPROTO 71 EPROTONOSUPPORT 93 EPROTOTYPE 91 ERANGE 34 EREMCHG 78 EREMOTE 66
    EREMOTEIO 121 ERESTART 85 ERFKILL 132 EROFS 30 ESHUTDOWN 108 ESOCKTNOSUPPORT 94 ESPIPE 29 ESRCH 3 ESRMNT 69 ESTALE 116 ESTRPIPE 86 ETIME 62
    ETIMEDOUT 110 ETOOMANYREFS 109 ETXTBSY 26 EUCLEAN 117 EUNATCH 49 EUSERS 87 EWOULDBLOCK 11 EXDEV 18 EXFULL 54
"""
"""Names and numbers. Source: include/uapi/asm-generic/errno-base.h and errno.h, which x86-64 and arm64 share."""

_OWN: Final = frozenset({"EFBIG"})
"""What keeps away from Linux's number. CPython's buffered files take 27, which is Linux's EFBIG and WASI's EINTR, for an interrupted call, and make it again, for ever."""
_FREE: Final = 200
"""The first number for those that Linux does not have, or that keep away from its."""
_TEXTS: Final = {
    5: "Input/output error", 10: "No child processes", 12: "Cannot allocate memory", 16: "Device or resource busy", 18: "Invalid cross-device link",
    23: "Too many open files in system", 24: "Too many open files", 25: "Inappropriate ioctl for device", 29: "Illegal seek",
    33: "Numerical argument out of domain", 34: "Numerical result out of range", 35: "Resource deadlock avoided", 36: "File name too long",
    40: "Too many levels of symbolic links", 84: "Invalid or incomplete multibyte or wide character", 88: "Socket operation on non-socket",
    90: "Message too long", 95: "Operation not supported", 98: "Address already in use", 99: "Cannot assign requested address",
    101: "Network is unreachable", 102: "Network dropped connection on reset", 103: "Software caused connection abort",
    106: "Transport endpoint is already connected", 107: "Transport endpoint is not connected", 108: "Cannot send after transport endpoint shutdown",
    110: "Connection timed out", 113: "No route to host", 115: "Operation now in progress", 122: "Disk quota exceeded",
}  # fmt: skip
"""What glibc says of Linux's numbers, and programs look for, where this C library says something else."""
_TEXTS_WORD, _TO_LINUX, _FROM_LINUX = 88, 256, 512  # see helpers.wat

_ASK: Final = """
import errno
for name, number in vars(errno).items():
    if name[0] == "E":
        print(name, number)
del errno, name, number
"""
_TELL: Final = """
def _translate(linux):
    import errno, gc, os, posix
    wasi = {new: old for old, new in linux.items()}
    for name, number in list(vars(errno).items()):
        if name[0] == "E":
            setattr(errno, name, linux[number])
    codes = {linux[number]: name for number, name in errno.errorcode.items()}
    errno.errorcode.clear()
    errno.errorcode.update(codes)
    (kinds,) = (d for d in gc.get_objects() if type(d) is dict and d.get(wasi[2]) is FileNotFoundError)
    found = {linux[number]: kind for number, kind in kinds.items()}
    kinds.clear()
    kinds.update(found)

    texts = {new: posix.strerror(old) for old, new in linux.items()} | dict(TEXTS)

    def strerror(code, /, *, _known=texts, _original=posix.strerror):
        own = _original(code)  # refuses what is no number
        return own if code == 0 else _known.get(code, f"Unknown error {code}")

    strerror.__module__, strerror.__qualname__, strerror.__doc__ = "posix", "strerror", posix.strerror.__doc__
    os.strerror = posix.strerror = strerror

_translate(dict(NUMBERS))
del _translate
"""


def _read(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def linux_numbers(interpreter: Interpreter) -> None:
    """Have a freshly started interpreter use Linux's numbers. Raises BootError."""
    linux, wasi = _read(_LINUX), _read(interpreter.run(_ASK))
    numbers: dict[int, int] = {}  # ENOTSUP and EOPNOTSUPP are two there, and one on Linux
    for name, number in wasi.items():
        if name in linux and name not in _OWN:
            numbers[number] = linux[name]
    numbers |= zip(sorted(set(wasi.values()) - numbers.keys()), itertools.count(_FREE), strict=False)
    if max(*numbers, *numbers.values()) > 255:
        raise BootError("the C library has error numbers of more than a byte")
    memory = interpreter.host.memory
    for old, new in numbers.items():
        memory.write(_TO_LINUX + old, bytes((new,)))
        memory.write(_FROM_LINUX + new, bytes((old,)))
    texts = interpreter.instance.call("calloc", 256, 4)
    for number, text in _TEXTS.items():
        memory.set_u32(texts + 4 * number, interpreter.string(text))
    memory.set_u32(_TEXTS_WORD, texts)
    tables = {"NUMBERS": sorted(numbers.items()), "TEXTS": sorted(_TEXTS.items())}
    code = _TELL
    for name, table in tables.items():
        code = code.replace(name, json.dumps(table))
    interpreter.run(code)
