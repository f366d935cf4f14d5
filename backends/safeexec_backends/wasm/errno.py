"""Error numbers as emscripten's C library knows them (WASI's numbering, wasi_snapshot_preview1)."""

from __future__ import annotations

from typing import Final

EACCES: Final = 2
EAFNOSUPPORT: Final = 5
EBADF: Final = 8
EBUSY: Final = 10
EEXIST: Final = 20
EFAULT: Final = 21
EFBIG: Final = 22
EINTR: Final = 27
EINVAL: Final = 28
EISDIR: Final = 31
ELOOP: Final = 32
EMFILE: Final = 33
ENAMETOOLONG: Final = 37
ENODEV: Final = 43
ENOENT: Final = 44
ENOMEM: Final = 48
ENOSPC: Final = 51
ENOSYS: Final = 52
ENOTDIR: Final = 54
ENOTEMPTY: Final = 55
ENOTTY: Final = 59
EPERM: Final = 63
ERANGE: Final = 68
EROFS: Final = 69
ESPIPE: Final = 70


class Errno(Exception):
    """A host function that fails with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
