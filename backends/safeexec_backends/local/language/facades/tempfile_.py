"""tempfile within the working directory and /tmp."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import exact_name

from . import descriptors
from .paths import PathRefused, check, open_file

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _tempfile(language: RestrictedLanguage) -> Exports:
    import shutil
    import tempfile

    def gettempdir() -> str:
        return "/tmp" if os.path.isdir("/tmp") and os.access("/tmp", os.W_OK) else os.getcwd()

    def place(dir: Any) -> str:
        return check(gettempdir() if dir is None else dir)

    def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> str:
        return tempfile.mkdtemp(_part(suffix), _part(prefix), place(dir))

    def mktemp_file(suffix: Any, prefix: Any, dir: Any) -> str:
        fd, path = tempfile.mkstemp(_part(suffix), _part(prefix), place(dir))
        os.close(fd)
        return path

    class TemporaryDirectory:
        """As `tempfile.TemporaryDirectory`."""

        def __init__(self, suffix: Any = None, prefix: Any = None, dir: Any = None, ignore_cleanup_errors: bool = False,
                     *, delete: bool = True) -> None:  # fmt: skip
            self.name = mkdtemp(suffix, prefix, dir)
            self._delete = delete

        def __enter__(self) -> str:
            return self.name

        def __exit__(self, *exc: Any) -> None:
            if self._delete:
                self.cleanup()

        def cleanup(self) -> None:
            shutil.rmtree(check(self.name, False), ignore_errors=True)

        def __repr__(self) -> str:
            return f"<TemporaryDirectory {self.name!r}>"

    class NamedTemporaryFile:
        """As `tempfile.NamedTemporaryFile`."""

        def __init__(self, mode: str = "w+b", buffering: int = -1, encoding: Any = None, newline: Any = None,
                     suffix: Any = None, prefix: Any = None, dir: Any = None, delete: bool = True, *,
                     errors: Any = None, delete_on_close: bool = True) -> None:  # fmt: skip
            self.name = mktemp_file(suffix, prefix, dir)
            self.file = open_file(self.name, mode, buffering, encoding, errors, newline)
            self._delete = delete
            for name in """read write seek tell flush readline readlines writelines truncate readable writable seekable
                fileno isatty""".split():
                setattr(self, name, getattr(self.file, name))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exc: Any) -> None:
            self.close()

        def __iter__(self) -> Any:
            return iter(self.file)

        @property
        def closed(self) -> bool:
            return bool(self.file.closed)

        def close(self) -> None:
            self.file.close()
            if self._delete:
                self._delete = False
                try:
                    os.unlink(check(self.name, False))
                except FileNotFoundError:
                    pass

    def mktemp(suffix: Any = "", prefix: Any = "tmp", dir: Any = None) -> str:
        """As `tempfile.mktemp`: a name that nothing has."""
        import secrets

        return os.path.join(place(dir), f"{_part(prefix)}{secrets.token_hex(4)}{_part(suffix)}")

    def TemporaryFile(mode: str = "w+b", *args: Any, **kwargs: Any) -> Any:
        import io

        return io.StringIO() if "b" not in exact_name(mode) else io.BytesIO()

    def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> tuple[int, str]:
        """As `tempfile.mkstemp`."""
        fd, path = tempfile.mkstemp(_part(suffix), _part(prefix), place(dir))
        return descriptors.keep(fd), path

    return {
        "gettempdir": gettempdir, "gettempprefix": tempfile.gettempprefix, "tempdir": None, "mkdtemp": mkdtemp, "TemporaryDirectory": TemporaryDirectory, "mkstemp": mkstemp, "mktemp": mktemp,
        "NamedTemporaryFile": NamedTemporaryFile, "TemporaryFile": TemporaryFile,
        "SpooledTemporaryFile": TemporaryFile,
    }  # fmt: skip


def _part(text: Any) -> str | None:
    """A suffix or prefix: no way into another directory."""
    if text is None:
        return None
    part = exact_name(text)
    if "/" in part or "\0" in part:
        raise PathRefused("a file name may not hold a slash")
    return part


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"tempfile": _tempfile}
