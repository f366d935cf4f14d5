"""Where a program may have files: every path is resolved and compared before it is used, so that the program gets a clear answer.

What finally holds is the operating system's wall: this check and the use of the path are two moments.
"""

from __future__ import annotations

import builtins
import errno
import operator
import os
from io import DEFAULT_BUFFER_SIZE
from typing import Any

from safeexec.guest import Refused
from safeexec_backends.local.language.identity import as_builtin, class_dict, class_mro, exact_name

from .buffers import ours

_roots: list[str] = []


class PathRefused(PermissionError, FileNotFoundError, Refused):
    """A path outside of what a program may touch. Nothing is there for it, as `os.path.exists` says: what expects that of a path catches it, too."""


as_builtin(PathRefused, "PermissionError")


def set_roots(*roots: str) -> None:
    """The directories that programs of this process may touch."""
    _roots[:] = [os.path.realpath(r) for r in roots]


def exact_bytes(data: Any) -> bytes:
    """`data` as exact bytes: ``bytes(data)`` is what its own ``__bytes__`` gives, whose ``decode()`` may be the program's again."""
    return bytes(memoryview(data))


def text_path(path: Any) -> str:
    """A path as an exact str, asked once."""
    if isinstance(path, bytes):
        return os.fsdecode(exact_bytes(path))
    if not isinstance(path, str):
        path = os.fspath(path)
        if isinstance(path, bytes):
            return os.fsdecode(exact_bytes(path))
    return str.__str__(path)


def lies_inside(path: str) -> bool:
    """Whether an absolute path without ``..`` begins with one of the directories that programs may touch."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in _roots)


def leads_up(path: str) -> bool:
    """Whether ``..`` is in a path. What that leads to may be exchanged after the look: such a path is used as it was resolved."""
    return ".." in path.split("/")


def check(path: Any, follow: bool = True) -> str:
    """The resolved path.

    :param follow: whether a symbolic link at the end is followed; what is removed or renamed is the link itself.
    :raises PathRefused: outside of the working directory and the temporary directory.
    :raises FileNotFoundError: for the empty path, which names nothing: resolved, it would be the working directory.
    """
    given = text_path(path)
    if not given:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), given)
    if follow:
        real = os.path.realpath(given)
    else:
        folder, name = os.path.split(os.path.abspath(given))
        real = os.path.join(os.path.realpath(folder), name)
    if real == "/dev/null" or lies_inside(real):
        return real
    raise PathRefused(errno.EACCES, "only the working directory and /tmp can be used in this sandbox", given)


def named_as(given: str, real: str, path: str) -> str:
    """How a program calls `path` that calls the place `real` `given`."""
    if path == real:
        return given
    above = real.rstrip("/") + "/"
    return os.path.join(given, path[len(above) :]) if path.startswith(above) else path


class Checked:
    """``with Checked(path) as real``: the resolved path, and errors that name it as the program did.

    :raises PathRefused: as :func:`check` does.
    """

    __slots__ = ("_given", "_real")

    def __init__(self, path: Any, follow: bool = True) -> None:
        self._given = text_path(path)  # asked once: a program's own path could answer differently the second time
        self._real = check(self._given, follow)

    def __enter__(self) -> str:
        return self._real

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, PathRefused):
            for which in ("filename", "filename2"):
                name = getattr(error, which)
                if type(name) is not str:
                    continue
                if name == self._real:
                    setattr(error, which, self._given)
                elif name.startswith(self._real + os.sep):  # what lies below it
                    setattr(error, which, os.path.join(self._given, name[len(self._real) + 1 :]))


def is_stream(file: Any) -> bool:
    """Whether `file` can be nothing but an object with methods: not a path or a descriptor, whatever else it has and says of itself."""
    kinds = class_mro(type(file))
    if any(kind is other for kind in kinds for other in (str, bytes, int)):
        return False
    if any(name in class_dict(kind) for kind in kinds for name in ("__fspath__", "__index__", "__int__", "__float__")):
        return False
    return hasattr(file, "read") or hasattr(file, "write")


def open_file(
    file: Any, mode: Any = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
    closefd: bool = True, opener: Any = None,
) -> Any:  # fmt: skip
    """``open`` in the working directory and /tmp.

    :raises PathRefused: elsewhere.
    """
    if opener is not None:
        raise TypeError("open() takes no opener in this sandbox")
    buffering = int(operator.index(buffering))  # a number, the same each time
    if buffering == 0:
        raise ValueError("unbuffered files are not available in this sandbox")
    mode = exact_name(mode)
    if isinstance(file, int):
        from .descriptors import open_number

        return open_number(file, mode, buffering, encoding, errors, newline, closefd)
    path = text_path(file)
    real = check(path)

    def open_checked(_: str, flags: int) -> int:
        # The place that was checked: a relative path means another one once a thread has changed the directory.
        try:
            return os.open(real, flags, 0o666)
        except OSError as error:
            error.filename = path
            raise

    found = builtins.open(path, mode, buffering, encoding, errors, newline, opener=open_checked)
    return ours(found, newline, buffering if buffering > 1 else DEFAULT_BUFFER_SIZE)
