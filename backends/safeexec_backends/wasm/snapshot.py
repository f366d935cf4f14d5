"""A session's state as bytes: the pages that differ from the image, the file system, the monotonic clock.

Layout: u32 length, JSON header, zlib stream of the pages in order, zlib stream of the files' contents. The header names the size of memory, the runs
of pages, the lengths of the streams, and the file system (`fs_state`). Most pages of a session are pages of the image in which a few words
have changed, so a run is written as its difference from the image (exclusive or) where that has more zeros: a tenth of the size, at five times
the speed.

Whoever wrote the bytes may have done so to attack. What they hold becomes bytes of linear memory, where a guest could have written them itself,
and files within the quotas; every number is checked before it is used, and nothing is allocated that the policy does not allow. The image
must be the same one, byte for byte: builds are reproducible, so it is on every machine with this version.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from safeexec.errors import SnapshotError

from . import abi, fs_state
from .checkpoint import Rest, fit, settled, written
from .host import CLOCKS, Host
from .pages import united

if TYPE_CHECKING:
    from .instance import Runtime

_FORMAT: Final = 1
_BLOCK: Final = 4096
_LEVEL: Final = 1
_MAX_HEADER: Final = 16 << 20
_MAX_RUNS: Final = 1 << 20
H = TypeVar("H", bound=Host)


def engine(identity: str) -> str:
    """What can read the snapshots of sessions of the image with this identity."""
    return f"wasm-{_FORMAT}-{identity}"


def dump(host: Host, rest: Rest, runtime: Runtime) -> bytes:
    """Write the state of an instance at rest. Raises checkpoint.Unsettled."""
    settled(host, rest)
    runs = written(host, rest)
    if host.base is not None:
        runs = united(runs, host.base.runs)
    pristine = rest.pristine()
    packer = zlib.compressobj(_LEVEL)
    described: list[tuple[int, int, int]] = []
    pages: list[bytes] = []
    for start, end in runs:
        data = bytes(host.memory.view[start:end])
        other = _difference(data, pristine[start:end])
        better = other.count(0) > data.count(0)
        described.append((start, end, int(better)))
        pages.append(packer.compress(other if better else data))
    pages.append(packer.flush())
    files, contents = fs_state.dump(host.files, runtime.base)
    packer = zlib.compressobj(_LEVEL)
    packed = [packer.compress(content) for content in contents]
    packed.append(packer.flush())
    header = {
        "memory": host.memory.size,
        "runs": described,
        "clock": host.clocks[1](),
        "pages": sum(map(len, pages)),
        "contents": sum(map(len, contents)),
        "files": files,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, *pages, *packed))


def _difference(data: bytes | memoryview, image: memoryview) -> bytes:
    """`data` exclusive-or the image's bytes, which are zeros where the image ends."""
    whole = int.from_bytes(data, "little") ^ int.from_bytes(image, "little")
    return whole.to_bytes(len(data), "little")


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
    try:
        header = json.loads(state[4 : 4 + length])
    except (ValueError, RecursionError):
        raise SnapshotError("the snapshot's state is malformed: its header") from None
    _require(type(header) is dict, "its header")
    host = make()
    try:
        _fill(host, header, memoryview(state)[4 + length :], runtime.rest(host), runtime)
    except fs_state.Malformed as error:
        host.close()
        raise SnapshotError(f"the snapshot's state is malformed: {error}") from None
    except BaseException:
        host.close()
        raise
    return host


def _fill(host: Host, header: dict[str, Any], streams: memoryview, rest: Rest, runtime: Runtime) -> None:
    size = _integer(header.get("memory"), abi.MAX_PAGES * abi.PAGE + 1, "the size of its memory")
    _require(size % abi.PAGE == 0 and size >= runtime.memory, "the size of its memory")
    if size > host.max_pages * abi.PAGE:
        raise SnapshotError(
            f"the snapshot needs {size - runtime.memory} bytes of memory, which is more than Limits.memory allows"
        )
    runs = _runs(header.get("runs"), size)
    end = _integer(header.get("pages"), len(streams) + 1, "the length of its pages")
    length = _integer(header.get("contents"), host.files.quota.bytes + 1, "its files take more than Limits.disk")
    # Contents first, then the pages: nothing of the size of memory is allocated for a state that is refused.
    contents = _inflated(streams[end:], length)
    files = fs_state.load(header.get("files"), memoryview(contents), runtime.base, host.files.quota)
    host.instance.written.forget()
    fit(host, size)
    _unpack(streams[:end], runs, host.memory.view, rest.pristine())
    host.files = files
    ahead = _integer(header.get("clock"), 1 << 63, "its clock") - time.monotonic_ns()
    # For the guest the monotonic clock stood still meanwhile; on another machine it could otherwise run backwards.
    host.clocks = {**CLOCKS, 1: lambda: time.monotonic_ns() + ahead}


def _runs(described: Any, size: int) -> list[tuple[int, int, int]]:
    _require(type(described) is list and len(described) <= _MAX_RUNS, "its pages")
    last = 0
    runs: list[tuple[int, int, int]] = []
    for run in described:
        _require(type(run) is list and len(run) == 3, "its pages")
        start, end = (_integer(place, size + 1, "pages beyond its memory") for place in run[:2])
        _require(last <= start < end and not start % _BLOCK and not end % _BLOCK, "pages out of order")
        runs.append((start, end, _integer(run[2], 2, "its pages")))
        last = end
    return runs


def _unpack(stream: memoryview, runs: list[tuple[int, int, int]], memory: memoryview, pristine: memoryview) -> None:
    unpacker = zlib.decompressobj()
    left: bytes | memoryview = stream
    for start, end, differs in runs:
        while start < end:
            data = _piece(unpacker, left, min(end - start, 1 << 20))
            left = unpacker.unconsumed_tail
            stop = start + len(data)
            memory[start:stop] = _difference(data, pristine[start:stop]) if differs else data
            start = stop
    _finish(unpacker, left)


def _inflated(stream: memoryview, length: int) -> bytearray:
    unpacker = zlib.decompressobj()
    data = bytearray()
    left: bytes | memoryview = stream
    while len(data) < length:
        data += _piece(unpacker, left, min(length - len(data), 1 << 20))
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
