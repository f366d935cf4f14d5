"""Pages of strangers: what a server sends is taken within bounds, and HTML is made into text in a process of its own.

Libraries that read HTML are made for pages, not for attacks: twenty thousand spaces keep markdownify's patterns busy for two seconds, two hundred thousand
for four minutes, and a pattern holds the interpreter while it searches: no clock of any session would go on. So they run where they can be ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterable
from time import monotonic
from typing import Any

import httpcore

_MEMORY = 2**30
"""Bytes of address space that reading a page may take."""
_PROGRAM = """
import sys
most, seconds, memory = map(int, sys.argv[1:4])
sys.path += [path for path in sys.argv[4:] if path not in sys.path]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
except (ImportError, OSError, ValueError):
    pass  # not everywhere; whoever started this ends it by the clock all the same
from markdownify import markdownify
text = markdownify(sys.stdin.buffer.read().decode("utf-8", "replace")).strip()
while "\\n\\n\\n" in text:
    text = text.replace("\\n\\n\\n", "\\n\\n")
sys.stdout.buffer.write(text[:most].encode("utf-8", "replace"))
"""


def markdown(page: str, most: int, seconds: float) -> str:
    """A page's HTML as markdown, `most` characters of it. Raises RuntimeError for one that cannot be read within bounds."""
    # Without the script's folder, and the working directory: a file there must not run in a library's place.
    paths = [path for path in sys.path[1:] if os.path.isabs(path) and not _is_here(path)]
    numbers = map(str, (most, int(seconds) + 1, _MEMORY))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, *numbers, *paths],
            input=page.encode("utf-8", "replace"), capture_output=True, timeout=seconds, cwd="/", check=False,
            env={key: value for key, value in os.environ.items() if key in ("LD_LIBRARY_PATH", "SYSTEMROOT")},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the page cannot be made into text within {seconds:g} s") from None
    if done.returncode:
        why = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise RuntimeError(f"the page cannot be made into text: {why[:200]}")
    return done.stdout.decode("utf-8", "replace")


def _is_here(path: str) -> bool:
    try:
        return os.path.samefile(path, os.curdir)
    except OSError:
        return False


def unpacked(pieces: Iterable[bytes], encoding: str, most: int) -> bytes:
    """A body as it was before its encoding, up to `most` bytes, and never more in memory. Raises RuntimeError for an encoding that was not asked for.

    Not by httpx: it unpacks each piece whole, and as often as the server says. 266 bytes of gzip in gzip are sixty megabytes.
    """
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise RuntimeError(f"the page comes as {encoding:.60}, which was not asked for")
    unpacker = zlib.decompressobj(31) if encoding.endswith("gzip") else None
    data = bytearray()
    for piece in pieces:
        rest = piece
        while rest and len(data) < most:
            if unpacker is None:
                data += rest[: most - len(data)]
                break
            try:
                data += unpacker.decompress(rest, most - len(data))
            except zlib.error as error:
                raise RuntimeError(f"the page is damaged: {error}") from None
            rest = unpacker.unconsumed_tail
        if len(data) >= most:
            break
    return bytes(data)


class Timed(httpcore.NetworkStream):
    """A connection that ends at a time, whatever is done on it: a server that sends a byte of its head now and then would hold a thread for weeks."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def _left(self, timeout: float | None, error: type[Exception]) -> float:
        left = self._until - monotonic()
        if left <= 0:
            raise error("the page took too long")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return Timed(self._stream.start_tls(ssl_context, server_hostname, left), self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
