"""A session's working directory, seen from the host."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from safeexec import whole
from safeexec.errors import LimitExceeded, ProtocolError, StepTimeout
from safeexec.names import check_collisions, check_name
from safeexec.result import FileInfo

if TYPE_CHECKING:
    from pathlib import Path

    from safeexec.policy import Limits
    from safeexec.session import Session

_CHUNK = 4 * 2**20


class Files:
    """Read, write and list the files of a session. Names are relative, with forward slashes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> tuple[FileInfo, ...]:
        """All regular files but those in ``__pycache__``, by name. Raises LimitExceeded where the list is larger than ``Limits.value``."""
        data = self._session._decoded({"t": "list"})
        if type(data) is not list:
            raise ProtocolError("a malformed list of files")
        files = []
        for item in data:
            if type(item) is not list or len(item) != 2 or type(item[0]) is not str or type(item[1]) is not int:
                raise ProtocolError("a malformed list of files")
            files.append(FileInfo(item[0], max(0, item[1])))
        return tuple(sorted(files, key=lambda f: f.name))

    def read(self, name: str) -> bytes:
        """The bytes of one file. Raises FileNotFoundError, UnsafeName, LimitExceeded for more than ``Limits.disk``."""
        check_name(name)
        chunk = min(_CHUNK, self._session.policy.limits.value)
        parts: list[bytes] = []
        total = 0
        while True:
            data = self._session._decoded({"t": "read", "name": name, "at": total, "size": chunk})
            if type(data) is not bytes or len(data) > chunk:
                raise ProtocolError("a malformed piece of a file")
            parts.append(data)
            total += len(data)
            # The guest says when the file ends; a file without end must not fill the host's memory.
            if total > self._session.policy.limits.disk:
                raise LimitExceeded(
                    f"file {name!r} is larger than Limits.disk ({self._session.policy.limits.disk} bytes)"
                )
            if len(data) < chunk:
                return b"".join(parts)

    def write(self, name: str, data: bytes | str) -> None:
        """Write one file, making its folders. Text is written as UTF-8. Raises UnsafeName, TypeError, OSError when the disk is full."""
        if isinstance(data, str):
            data = data.encode()
        # Not bytes(data) of whatever it is: of a number that would be as many NULs.
        self.put(name, data if isinstance(data, bytes) else bytes(memoryview(data)))

    def put(self, name: str, data: bytes, quiet: bool = False) -> None:
        """As :meth:`write`; `quiet` leaves it to the caller to have the guest look again."""
        check_name(name)
        for start in range(0, max(1, len(data)), _CHUNK):
            piece = memoryview(data)[start : start + _CHUNK]
            header = {"t": "write", "name": name, "append": start > 0, "quiet": quiet}
            self._session._request(header, [piece])

    def remove(self, name: str) -> None:
        """Delete one file. Raises FileNotFoundError, UnsafeName."""
        check_name(name)
        self._session._request({"t": "remove", "name": name})

    def save(self, directory: str | os.PathLike[str], names: Sequence[str] | None = None) -> tuple[Path, ...]:
        """Copy files (all, or `names`) below `directory` on the host, which is made if missing; returns their paths.

        Nothing is saved unless every name is safe and no two collide; what exists is replaced, but never through a symbolic link.
        Raises UnsafeName, FileNotFoundError, OSError, LimitExceeded for more than ``Limits.disk`` can hold, in bytes or in files and folders,
        StepTimeout where it takes longer than ``Limits.wall``.
        """
        from pathlib import Path

        chosen = [info.name for info in self.list()] if names is None else list(names)
        for name in chosen:
            check_name(name)
        _check_number(chosen, most_entries(self._session.policy.limits))
        check_collisions(chosen)
        limit = self._session.policy.limits.disk
        total = 0
        saved = []
        late = deadline(self._session.policy.limits)
        for name in chosen:
            if monotonic() > late:  # each may take the guest as long as a step
                raise StepTimeout("saving the files took longer than one step may (Limits.wall)")
            data = self.read(name)
            total += len(data)
            if total > limit:  # the guest names the files, and may name more than it could ever hold
                raise LimitExceeded(f"the files together are larger than Limits.disk ({limit} bytes)")
            saved.append(_save(Path(directory), name, data))
        return tuple(saved)


def most_entries(limits: Limits) -> int:
    """Files and folders that fit into ``Limits.disk``: no sandbox has room for one to a kilobyte, and a guest may name millions, which have no bytes."""
    return max(1000, limits.disk // 1024)


def deadline(limits: Limits) -> float:
    """When reading many files must have come to its end, by ``time.monotonic``."""
    return math.inf if limits.wall is None else monotonic() + limits.wall


def _check_number(names: Sequence[str], most: int) -> None:
    """Raise LimitExceeded if there are more names, and folders on the way to them, than `most`: a name of a kilobyte alone may have five hundred."""
    folders: set[str] = set()
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            if len(folders) > most:
                break
            folder = folder.rpartition("/")[0]
        if len(names) + len(folders) > most:
            raise LimitExceeded(f"there are more files and folders than Limits.disk has room for ({most})")


def _save(root: Path, name: str, data: bytes) -> Path:
    """Write `data` to `root`/`name` without following any symbolic link below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    *folders, leaf = name.split("/")
    # Walk down by directory descriptors: a link planted in the target (by an earlier run, say) must not lead the write elsewhere.
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, dir_fd=at)
            except FileExistsError:
                pass
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        whole.write(leaf, data, at=at)
    finally:
        os.close(at)
    return root / name
