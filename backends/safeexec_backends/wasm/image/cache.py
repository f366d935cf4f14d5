"""The image cache: private to the user, one directory per exact configuration, verified before it is loaded.

A compiled image is native code that runs in the host's process. So the directory must belong to this user and be writable by nobody else, the
files must be regular files in it, and their digests must be those written down when they were made; anything else is built anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from safeexec import whole
from safeexec_backends.wasm import native

from .pins import PINS, guest_files, own_library

COMPILED, FILES, FACTS = "image.cwasm", "files.bin", "image.json"
STAMP: Final = "verified"
_SETTLED: Final = 2_000_000_000
_CHUNK: Final = 8 << 20
_FORMAT: Final = 2
_OTHERS: Final = 3
"""Images of other configurations that stay: another interpreter's, or the branch's that one comes back to."""
# The code whose output an image is; what only loads and drives one is not among it.
_BUILDER: Final = (
    "binary.py", "boot.py", "build.py", "code.py", "errors.py", "exceptions.py", "freeze.py", "helpers.wat", "library.py", "link.py",
    "polls.py", "state.py",
    "../abi/engine.py", "../abi/instance.py", "../abi/library.py", "../abi/memory.py", "../abi/program.py",
    "../native.py", "../limits.py", "../stops.py",
    "../syscalls.py", "../syscalls_files.py", "../syscalls_io.py", "../syscalls_system.py", "../syscalls_time.py",
)  # fmt: skip


class Damaged(Exception):
    """A cached image that must not be loaded."""


class Loaded(NamedTuple):
    """A verified image: the path of its compiled module, its shared files, its facts."""

    compiled: Path
    files: Mapping[str, memoryview]
    facts: Mapping[str, Any]


def cache_directory() -> Path:
    """Where images live: $SAFEEXEC_CACHE, else the user's cache directory."""
    chosen = os.environ.get("SAFEEXEC_CACHE")
    if chosen:
        return Path(chosen) / "wasm"
    if sys.platform == "linux":  # what platformdirs would say, without the 8 ms of importing it
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "safeexec" / "wasm"
    import platformdirs

    return platformdirs.user_cache_path("safeexec") / "wasm"


def _wasmtime() -> str:
    # The directory of its metadata names the version; importing importlib.metadata to ask would cost a third of a cold start.
    root = native.library_path().parent.parent.parent
    names = sorted(p.name for p in root.glob("wasmtime-*.dist-info"))
    size = native.library_path().stat()
    return f"{names} {size.st_size}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = file.read(8192).split(b"\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    keep = (b"flags", b"Features", b"model name", b"CPU part")
    return b"\n".join(line for line in lines if line.startswith(keep)).decode(errors="replace")


@cache
def key() -> str:
    """What the image depends on, as one digest: wasmtime, processor, the builder's own code, the guest program, the pinned inputs."""
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    for text in (str(_FORMAT), _wasmtime(), platform.machine(), _processor(), repr(PINS)):
        add(text.encode())
    folder = Path(__file__).parent
    for name in _BUILDER:
        add((folder / name).read_bytes())
    for name, data in (guest_files() | own_library()).items():
        add(name.encode())
        add(data)
    return digest.hexdigest()[:32]


def digest_of(data: bytes | mmap.mmap | memoryview) -> str:
    """A digest of large data: SHA-256 over the SHA-256 of its chunks, computed by a few threads (hashing releases the GIL)."""
    view = memoryview(data)
    count = max(1, -(-len(view) // _CHUNK))
    parts: list[bytes] = [b""] * count
    numbers = iter(range(count))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            parts[number] = hashlib.sha256(view[number * _CHUNK : (number + 1) * _CHUNK]).digest()

    helpers = [threading.Thread(target=work) for _ in range(min(3, count - 1, (os.cpu_count() or 1) - 1))]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    view.release()
    return hashlib.sha256(b"".join(parts)).hexdigest()


def check_owner(path: Path, directory: bool) -> None:
    """Refuse what somebody else could have written."""
    info = os.lstat(path)
    if stat.S_ISDIR(info.st_mode) != directory or (not directory and not stat.S_ISREG(info.st_mode)):
        raise Damaged(f"{path} is not a {'directory' if directory else 'regular file'}")
    if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
        raise Damaged(f"{path} belongs to another user")
    if info.st_mode & 0o022:
        raise Damaged(f"{path} can be written by others")


def _stamp(directory: Path) -> bytes:
    """What changes whenever a file is written to or put in another's place: its identity, its size, its times.

    Nobody can set a file's change time but by setting the machine's clock, or without being able to write into this user's Python as well.
    """
    infos = [os.stat(directory / name, follow_symlinks=False) for name in (COMPILED, FILES, FACTS)]
    return repr([(i.st_dev, i.st_ino, i.st_size, i.st_mtime_ns, i.st_ctime_ns) for i in infos]).encode()


def _is_stamped(directory: Path, stamp: bytes) -> bool:
    """Whether these very files have been verified before: hashing 70 MB is most of a cold start."""
    path = directory / STAMP
    try:
        check_owner(path, False)
        return path.read_bytes() == stamp
    except (OSError, Damaged):
        return False


def _write_stamp(directory: Path, stamp: bytes) -> None:
    """Remember that the files were found whole. Without it (a cache that is read-only, say) they are hashed at every start."""
    newest = max(os.stat(directory / name).st_ctime_ns for name in (COMPILED, FILES, FACTS))
    if _stamp(directory) != stamp or time.time_ns() - newest < _SETTLED:
        return  # a write so recent could be followed by another that leaves the same time
    try:
        whole.write(directory / STAMP, stamp, mode=0o600)
    except OSError:
        return


def _mapped(path: Path, read_all: bool = True) -> mmap.mmap:
    """A file, read-only; if all of it is to be read its pages are mapped at once, which costs a third of taking a fault for each."""
    with open(path, "rb") as file:
        if read_all and hasattr(mmap, "MAP_POPULATE"):
            return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load(directory: Path) -> Loaded:
    """Verify and open an image. Raises FileNotFoundError if there is none, Damaged if it must not be used."""
    check_owner(directory, True)
    for name in (COMPILED, FILES, FACTS):
        check_owner(directory / name, False)
    try:
        stamp = _stamp(directory)
        facts = json.loads((directory / FACTS).read_bytes())
        known = _is_stamped(directory, stamp)
        content = memoryview(_mapped(directory / FILES, read_all=not known))
        if not known:
            with _mapped(directory / COMPILED) as data:
                if digest_of(data) != facts["compiled"]:
                    raise Damaged(f"{directory / COMPILED} has changed")
            if digest_of(content[:]) != facts["files"]:
                raise Damaged(f"{directory / FILES} has changed")
            _write_stamp(directory, stamp)
        names = facts["names"]
        files = {name: content[start : start + size] for name, (start, size) in names.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{directory}: {error}") from error
    return Loaded(directory / COMPILED, files, facts)


@contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the one lock of the cache. `waiting` is called if another process holds it; it ends with that process."""
    import fcntl

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owner(folder, True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(
    folder: Path, name: str, compiled: bytes, files: Mapping[str, bytes | memoryview], facts: Mapping[str, Any]
) -> Path:
    """Write an image under a temporary name and rename it: a killed build leaves nothing that looks like one."""
    import shutil  # only a build needs it, and it costs a start 4 ms

    for leftover in folder.glob("building-*"):
        shutil.rmtree(leftover)  # of a killed build: this process holds the lock
    partial = folder / f"building-{os.getpid()}"
    partial.mkdir(mode=0o700)
    content = bytearray()
    names: dict[str, tuple[int, int]] = {}
    for path, data in files.items():
        names[path] = (len(content), len(data))
        content += data
    complete = {
        **facts, "names": names, "files": digest_of(memoryview(content)), "compiled": digest_of(compiled)
    }  # fmt: skip
    target = folder / name
    try:
        for file, data in ((COMPILED, compiled), (FILES, bytes(content)), (FACTS, json.dumps(complete).encode())):
            (partial / file).touch(mode=0o600)
            (partial / file).write_bytes(data)
        if target.exists():
            shutil.rmtree(target)  # damaged, or it would not be built again
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk the half of it would keep it full
        raise
    return target


def remove_others(folder: Path, name: str) -> None:
    """Remove images of other configurations but the newest few."""
    import shutil

    images = [p for p in folder.iterdir() if p.is_dir() and len(p.name) == 32 and p.name != name]
    images.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in images[_OTHERS:]:
        shutil.rmtree(old, ignore_errors=True)
