"""The output streams as a program sees them."""

from __future__ import annotations

import io
import sys
from typing import Any

from safeexec.guest import ONE_WRITE

from .kinds import stands_for
from .paths import exact_bytes


class _Output:
    """``sys.stdout`` or ``sys.stderr`` as a program sees it: the stream itself holds the channel to the host."""

    __slots__ = ("_name", "_streams", "encoding", "mode", "name", "newlines", "write_through")

    def __init__(self, name: str, streams: Streams) -> None:
        self._name = name
        self._streams = streams
        self.name = f"<{name}>"
        self.encoding = "utf-8"
        self.mode = "w"
        self.newlines = None
        self.write_through = True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        return int(self._streams.own(self._name).write(text))

    def writelines(self, lines: Any, /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._streams.own(self._name).flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.flush()  # and stays open: what comes later in the session is written to it, too

    def __repr__(self) -> str:
        return f"<_io.TextIOWrapper name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}>"

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def reconfigure(self, **settings: Any) -> None:
        """As ``TextIOWrapper.reconfigure``."""
        self._streams.own(self._name).reconfigure(**settings)

    @property
    def errors(self) -> Any:
        return self._streams.own(self._name).errors

    @property
    def line_buffering(self) -> bool:
        return bool(self._streams.own(self._name).line_buffering)

    @property
    def closed(self) -> bool:
        return False

    @property
    def buffer(self) -> Any:
        return _Bytes(self._name, self._streams)


ONE_WRITE.append(_Output)
stands_for(_Output, "IOBase", "TextIOBase")


class _Bytes:
    """``sys.stdout.buffer``."""

    __slots__ = ("_name", "_streams")

    def __init__(self, name: str, streams: Streams) -> None:
        self._name = name
        self._streams = streams

    def write(self, data: Any, /) -> int:
        raw = exact_bytes(data)
        stream = self._streams.own(self._name)
        buffer = getattr(stream, "buffer", None)
        if buffer is None:
            stream.write(raw.decode("utf-8", "replace"))
        else:
            buffer.write(raw)
        return len(raw)

    def flush(self) -> None:
        self._streams.own(self._name).flush()


class _Nothing(io.BytesIO):
    """What is below ``sys.stdin``: nobody writes to it."""

    name = "<stdin>"
    mode = "rb"


_Nothing.__module__, _Nothing.__name__, _Nothing.__qualname__ = "_io", "BufferedReader", "BufferedReader"


def no_input() -> io.TextIOWrapper:
    """``sys.stdin`` of a program to which nobody speaks: text over bytes, both at their end."""
    return io.TextIOWrapper(_Nothing(), encoding="utf-8", errors="strict")


class Streams:
    """The output streams, of which a program may put others in place; the guest program's own stay out of its reach."""

    def __init__(self) -> None:
        self.outputs = {"stdout": _Output("stdout", self), "stderr": _Output("stderr", self)}
        self._guests: dict[str, Any] = {}
        self._put: dict[str, Any] = {}
        self._stack: dict[str, list[Any]] = {"stdout": [], "stderr": []}

    def own(self, name: str) -> Any:
        """The guest program's stream."""
        now = getattr(sys, name)
        return self._guests[name] if now is self._put.get(name, self) else now

    def shown(self, name: str) -> Any:
        """``sys.stdout``, ``sys.stderr``."""
        # What the program put there, and nothing else: between two steps, or two threads, it may be the guest program's at any moment.
        put = self._put.get(name, self)
        return put if getattr(sys, name) is put else self.outputs[name]

    def put(self, name: str, value: Any) -> None:
        """``sys.stdout = value``."""
        own = self.own(name)
        if value is self.outputs[name]:
            setattr(sys, name, own)
        else:
            self._guests[name], self._put[name] = own, value
            setattr(sys, name, value)

    def push(self, name: str, value: Any) -> None:
        """``redirect_stdout``, beginning."""
        self._stack[name].append(self.shown(name))
        self.put(name, value)

    def pop(self, name: str) -> None:
        """``redirect_stdout``, ending."""
        self.put(name, self._stack[name].pop())

    def reset(self) -> None:
        """A step begins: the guest program has put its own streams back."""
        self._put.clear()
        self._guests.clear()
