"""A session's state as bytes: the pages that differ from the image, the file system, the monotonic clock.

Layout: u32 length, JSON header, then three zlib streams: where memory differs from the image (u32 starts, then u32 lengths), the bytes that are there, the
files' contents. The header names the size of memory, the number of those places, the lengths of the streams, and the file system (`fs_state`). Most pages of
a session are pages of the image in which a few words have changed, so places are found in steps of 128 bytes.

Whoever wrote the bytes may have done so to attack. What they hold becomes bytes of linear memory, where a guest could have written them itself,
and files within the quotas; every number is checked before it is used, and nothing is allocated that the policy does not allow. The image
must be the same one, byte for byte: builds are reproducible, so it is on every machine with this version.
"""

from __future__ import annotations

import json
import operator
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from safeexec import wire
from safeexec.errors import SnapshotError

from . import abi, fs_copy, fs_state
from .checkpoint import Rest, fit, settled, written
from .fs import HELD_MAX, FileSystem
from .fs_tree import Quota
from .host import CLOCKS, Host
from .pages import Run, total, united

if TYPE_CHECKING:
    from .instance import Runtime

_PAGE: Final = 4096
_BLOCK: Final = 128
_LEVEL: Final = 1
_PIECE: Final = 1 << 20
_MAX_HEADER: Final = 16 << 20
_MAX_DEPTH: Final = 16
H = TypeVar("H", bound=Host)


class Draft(NamedTuple):
    """The state of an instance, yet to be packed."""

    size: int
    """Bytes of linear memory."""
    runs: Sequence[Run]
    """Of the pages that may differ from the image."""
    pages: Sequence[memoryview | bytearray]
    """What is in them."""
    clock: int
    files: FileSystem


class TooLarge(Exception):
    """A state has more bytes than it may have."""


def draft(host: Host, rest: Rest, most: int) -> Draft:
    """A copy of the state of an instance at rest, of up to `most` bytes. Raises checkpoint.Unsettled, TooLarge, OSError."""
    settled(host, rest)
    runs = _runs(host, rest)
    if total(runs) + host.files.used > most:
        raise TooLarge
    pages = [_copied(host.memory.view, start, end) for start, end in runs]
    return Draft(host.memory.size, runs, pages, host.clocks[1](), fs_copy.copy(host.files))


def _copied(memory: memoryview, start: int, end: int) -> bytearray:
    copy = bytearray(end - start)
    for first in range(start, end, _PIECE):  # in pieces: whoever waits for the interpreter need not wait for all of it
        last = min(first + _PIECE, end)
        copy[first - start : last - start] = memory[first:last]
    return copy


def _runs(host: Host, rest: Rest) -> list[Run]:
    runs = written(host, rest)
    return runs if host.base is None else united(runs, host.base.runs)


def dump(host: Host, rest: Rest, runtime: Runtime) -> bytes:
    """Write the state of an instance at rest. Raises checkpoint.Unsettled."""
    settled(host, rest)
    runs = _runs(host, rest)
    pages = [host.memory.view[start:end] for start, end in runs]
    return packed(Draft(host.memory.size, runs, pages, host.clocks[1](), host.files), rest, runtime)


def packed(draft: Draft, rest: Rest, runtime: Runtime) -> bytes:
    """Write a state."""
    starts, lengths = array("I"), array("I")
    packer = zlib.compressobj(_LEVEL)
    pages: list[bytes] = []
    for (start, end), data in zip(draft.runs, draft.pages, strict=True):
        content = memoryview(data)
        for first, last in _differing(content, rest.pristine()[start:end]):
            starts.append(start + first)
            lengths.append(last - first)
            pages.append(packer.compress(content[first:last]))
    pages.append(packer.flush())
    places = zlib.compress(_little(starts) + _little(lengths), _LEVEL)
    files, contents = fs_state.dump(draft.files, runtime.base)
    packer = zlib.compressobj(_LEVEL)
    filed = [packer.compress(content) for content in contents]
    filed.append(packer.flush())
    header = {
        "memory": draft.size,
        "places": [len(starts), len(places)],
        "clock": draft.clock,
        "pages": sum(map(len, pages)),
        "contents": sum(map(len, contents)),
        "files": files,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, places, *pages, *filed))


def _differing(data: memoryview, image: memoryview) -> Iterator[tuple[int, int]]:
    """Where whole pages of memory differ from the image, which ends in zeros: first byte, end."""
    zeros = bytes(_PAGE)
    since = -1
    for page in range(0, len(data), _PAGE):
        one, other = bytes(data[page : page + _PAGE]), bytes(image[page : page + _PAGE]) or zeros
        if one == other:
            if since >= 0:
                yield since, page
                since = -1
            continue
        for block in range(0, _PAGE, _BLOCK):
            differs = one[block : block + _BLOCK] != other[block : block + _BLOCK]
            if differs and since < 0:
                since = page + block
            elif not differs and since >= 0:
                yield since, page + block
                since = -1
    if since >= 0:
        yield since, len(data)


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise SnapshotError(f"the snapshot's state is malformed: {what}")


def _integer(value: Any, end: int, what: str) -> int:
    _require(type(value) is int and 0 <= value < end, what)
    return int(value)


def load(state: bytes, make: Callable[[], H], runtime: Runtime) -> H:
    """A fresh instance in that state; `make` makes it under its policy. Raises SnapshotError; EngineError when there is no room."""
    length = int.from_bytes(state[:4], "little")
    _require(4 + length <= len(state) and length <= _MAX_HEADER, "it is too short")
    host = make()
    try:
        header = _header(state[4 : 4 + length], host.files.quota)
        runtime.rest(host)  # taken while it is fresh: this may be the first instance that the process has
        _fill(host, header, memoryview(state)[4 + length :], runtime)
    except fs_state.Malformed as error:
        host.close()
        raise SnapshotError(f"the snapshot's state is malformed: {error}") from None
    except BaseException:
        host.close()
        raise
    return host


def _header(text: bytes, quota: Quota) -> dict[str, Any]:
    # What a file system within its quotas takes, and no more: sixteen megabytes of `[],[],` would become half a gigabyte of a process
    # that other sessions live in, and stop them while they are read.
    most = 16 * (quota.inodes + quota.open_files) + 4 * HELD_MAX
    try:
        wire.check_json(text, most, _MAX_DEPTH)
        header = json.loads(text)
    except (wire.WireError, ValueError, RecursionError):
        raise SnapshotError("the snapshot's state is malformed: its header") from None
    _require(type(header) is dict, "its header")
    return dict(header)


def _fill(host: Host, header: dict[str, Any], streams: memoryview, runtime: Runtime) -> None:
    size = _integer(header.get("memory"), abi.MAX_PAGES * abi.PAGE + 1, "the size of its memory")
    _require(size % abi.PAGE == 0 and size >= runtime.memory, "the size of its memory")
    if size > host.max_pages * abi.PAGE:
        raise SnapshotError(
            f"the snapshot needs {size - runtime.memory} bytes of memory, which is more than Limits.memory allows"
        )
    described = header.get("places")
    if type(described) is not list or len(described) != 2:
        raise SnapshotError("the snapshot's state is malformed: its pages")
    # Between two places is at least a block that does not differ.
    count = _integer(described[0], size // (2 * _BLOCK) + 2, "its pages")
    middle = _integer(described[1], len(streams) + 1, "the length of its pages")
    starts, ends = _places(streams[:middle], count, size)
    end = middle + _integer(header.get("pages"), len(streams) - middle + 1, "the length of its pages")
    length = _integer(header.get("contents"), host.files.quota.bytes + 1, "its files take more than Limits.disk")
    # Contents first, then the pages: nothing of the size of memory is allocated for a state that is refused.
    contents = _inflated(streams[end:], length)
    files = fs_state.load(header.get("files"), memoryview(contents), runtime.base, host.files.quota)
    host.instance.written.forget()
    fit(host, size)
    # What is as in the image was left out, and here nothing is: a generator that a program seeded may share words with the frozen one.
    host.memory.view[runtime.drawn] = runtime.rest(host).pristine()[runtime.drawn]
    _unpack(streams[middle:end], starts, ends, host.memory.view)
    host.files = files
    # Far enough from the end of its bits that no session lives to see it.
    ahead = _integer(header.get("clock"), 1 << 62, "its clock") - time.monotonic_ns()
    # For the guest the monotonic clock stood still meanwhile; on another machine it could otherwise run backwards.
    host.clocks = {**CLOCKS, 1: lambda: time.monotonic_ns() + ahead}


def _places(stream: memoryview, count: int, size: int) -> tuple[array[int], array[int]]:
    numbers = array("I")
    numbers.frombytes(_inflated(stream, 8 * count))
    if sys.byteorder == "big":
        numbers.byteswap()
    starts, lengths = numbers[:count], numbers[count:]
    ends = array("Q", map(operator.add, starts, lengths))
    _require(0 not in lengths and all(map(operator.le, ends, starts[1:])), "pages out of order")
    _require(not ends or ends[-1] <= size, "pages beyond its memory")
    return starts, ends


def _unpack(stream: memoryview, starts: Iterable[int], ends: Iterable[int], memory: memoryview) -> None:
    unpacker = zlib.decompressobj()
    left: bytes | memoryview = stream
    data, place = b"", 0
    for start, end in zip(starts, ends, strict=True):
        while start < end:
            if place == len(data):
                data, place = _piece(unpacker, left, _PIECE), 0
                left = unpacker.unconsumed_tail
            count = min(end - start, len(data) - place)
            memory[start : start + count] = data[place : place + count]
            start += count
            place += count
    _require(place == len(data), "it is too long")
    _finish(unpacker, left)


def _inflated(stream: memoryview, length: int) -> bytearray:
    unpacker = zlib.decompressobj()
    data = bytearray()
    left: bytes | memoryview = stream
    while len(data) < length:
        data += _piece(unpacker, left, min(length - len(data), _PIECE))
        left = unpacker.unconsumed_tail
    _finish(unpacker, left)
    return data


def _piece(unpacker: Any, data: bytes | memoryview, limit: int) -> bytes:
    try:
        piece: bytes = unpacker.decompress(data, limit)
    except zlib.error:
        raise SnapshotError("the snapshot's state is malformed: it cannot be decompressed") from None
    _require(bool(piece), "it is too short")
    return piece


def _finish(unpacker: Any, left: bytes | memoryview) -> None:
    """The stream must end where it should: what is left over would be a place to hide."""
    try:
        more = unpacker.decompress(left, 1) if not unpacker.eof else b""
    except zlib.error:
        more = b"?"
    _require(not more and unpacker.eof and not unpacker.unused_data, "it is too long")
