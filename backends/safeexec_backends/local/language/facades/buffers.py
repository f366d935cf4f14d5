"""The buffered streams of ``io``, for raw streams that a program wrote.

CPython's own hand the memory of their buffer to the raw stream's methods. Whoever keeps that outlives the buffer, and reads and writes memory that is
something else by then; and a raw stream that says it has read more than it was given room for is believed. So a program's raw stream sees copies, and
nowhere is an object of CPython's own classes to be had, whose type could be called.
"""

from __future__ import annotations

import io
from typing import Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import is_guest_class

_SIZE = io.DEFAULT_BUFFER_SIZE


class _Shield:
    """A raw stream that gives another one copies. No subclass of CPython's, by which a program that came by one would come by that."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def readinto(self, target: Any) -> int | None:
        piece = bytearray(len(target))
        count = self._raw.readinto(piece)
        if count is None:
            return None
        read = bytes(piece)[: _count(count, len(target))]  # it may have another length by now
        target[: len(read)] = read
        return len(read)

    def read(self, size: int = -1) -> Any:
        return _read(self, size)

    def readall(self) -> Any:
        return _read_all(self)

    def write(self, data: Any) -> int | None:
        copy = bytes(data)
        count = self._raw.write(copy)
        return None if count is None else _count(count, len(copy))

    def readable(self) -> bool:
        return bool(self._raw.readable())

    def writable(self) -> bool:
        return bool(self._raw.writable())

    def seekable(self) -> bool:
        return bool(self._raw.seekable())

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._raw.seek(position, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def truncate(self, size: int | None = None) -> int:
        return int(self._raw.truncate(size))

    def flush(self) -> None:
        self._raw.flush()

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        return int(self._raw.fileno())

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)

    def close(self) -> None:
        self._raw.close()

    @property
    def name(self) -> Any:
        return self._raw.name

    @property
    def mode(self) -> Any:
        return self._raw.mode

    def __repr__(self) -> str:
        return repr(self._raw)


def _count(said: Any, most: int) -> int:
    count = int(said)
    if not 0 <= count <= most:
        raise OSError(f"raw stream returned invalid length {count} (should have been between 0 and {most})")
    return count


def _read(raw: Any, size: Any) -> Any:
    if size is None or size < 0:
        return raw.readall()
    piece = bytearray(size)
    count = raw.readinto(piece)
    return None if count is None else bytes(piece)[: _count(count, size)]


def _read_all(raw: Any) -> Any:
    parts = bytearray()
    while data := raw.read(_SIZE):
        parts += data
    return bytes(parts) if parts else data


def behind(file: io.BufferedReader) -> Any:
    """The raw stream that `file` reads from, for the library."""
    raw: Any = vars(io.BufferedReader)["raw"].__get__(file)
    return raw._raw if type(raw) is _Shield else raw


def _shielded(raw: Any) -> Any:
    kind = type(
        raw
    )  # compared by identity: a metaclass of the program's would be asked, and shown what it is compared with
    return raw if kind is io.FileIO or kind is io.BytesIO or kind is _Shield else _Shield(raw)


def _unshielded(raw: Any) -> Any:
    """`raw` where it is the program's own, or bytes in memory: the classes of the others open any path, or inherit from CPython's."""
    if type(raw) is _Shield:
        raw = raw._raw
    if type(raw) is not io.BytesIO and not is_guest_class(type(raw)):
        raise io.UnsupportedOperation("the raw stream is not available in this sandbox")
    return raw


def _over(native: Any) -> Any:
    """`native` over one raw stream, which sees copies. No base class of all three: a program's own class could have it lead elsewhere."""

    class Buffered(native):  # type: ignore[misc]
        def __init__(self, raw: Any, buffer_size: int = _SIZE) -> None:
            super().__init__(_shielded(raw), buffer_size)

        @property
        def raw(self) -> Any:
            return _unshielded(super().raw)

        def detach(self) -> Any:
            raw = _unshielded(super().raw)
            super().detach()
            return raw

    Buffered.__name__ = Buffered.__qualname__ = native.__name__
    Buffered.__doc__ = f"As `io.{native.__name__}`."
    return Buffered


class BufferedRWPair(io.BufferedRWPair):
    """As `io.BufferedRWPair`."""

    def __init__(self, reader: Any, writer: Any, buffer_size: int = _SIZE) -> None:
        super().__init__(_shielded(reader), _shielded(writer), buffer_size)


class RawIOBase(io.IOBase):
    """As `io.RawIOBase`, of which it is no subclass: that would be the method which believes how much was read."""

    def read(self, size: int = -1, /) -> Any:
        return _read(self, size)

    def readall(self) -> Any:
        return _read_all(self)

    def readinto(self, buffer: Any, /) -> Any:
        raise io.UnsupportedOperation("readinto")

    def write(self, data: Any, /) -> Any:
        raise io.UnsupportedOperation("write")


_KINDS: dict[type, Any] = {kind: _over(kind) for kind in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)}
SHOWN: dict[str, Any] = {kind.__name__: kind for kind in (*_KINDS.values(), BufferedRWPair, RawIOBase)}
for _kind in (*_KINDS, io.BufferedRWPair, io.RawIOBase, io.RawIOBase.__mro__[1]):
    deny_class(_kind)
for _kind in SHOWN.values():
    _kind.__module__ = "io"


def ours(file: Any, newline: Any, size: int) -> Any:
    """What ``open`` gave, with a buffer of the classes above: `size` bytes."""
    if type(file) is not io.TextIOWrapper:
        kind = _KINDS.get(type(file))
        if kind is None:  # and no KeyError, which would have the class of a raw file
            raise io.UnsupportedOperation("unbuffered files are not available in this sandbox")
        return kind(file.detach(), size)
    mode, settings = file.mode, (file.encoding, file.errors, newline, file.line_buffering)
    made = io.TextIOWrapper(ours(file.detach(), newline, size), *settings)
    made.mode = mode  # type: ignore[misc]
    return made
