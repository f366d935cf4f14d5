"""pathlib within the working directory and /tmp."""

from __future__ import annotations

import os
import pathlib
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import exact_name
from safeexec_backends.local.language.reading import Reader

from .files import listdir, makedirs, resolved, stat_, walk
from .links import link, readlink, symlink
from .paths import Checked, PathRefused, check, leads_up, named_as, open_file, text_path

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _pathlib(language: RestrictedLanguage) -> Exports:
    _no_remembered_modules()
    flavour = language.gate.build("os").path

    def parser(o: Any, name: str, reader: Reader = getattr) -> Any:
        # From 3.13 on a path's is the module, and the library compares it with that: in its place paths were equal whatever their case.
        found = reader(o, name)
        if found is os.path:
            return flavour
        language.guards.check(found, name)
        return found

    language.guards.special["parser"] = parser

    class PurePosixPath(pathlib.PurePosixPath):
        __slots__ = ()

    PurePosixPath.__module__ = __name__

    class PosixPath(PurePosixPath):
        """As `pathlib.Path`, within the working directory and /tmp."""

        __slots__ = ()

        def _text(self) -> str:
            return check(str(self))

        @classmethod
        def cwd(cls) -> Any:
            return cls(os.getcwd())

        @classmethod
        def home(cls) -> Any:
            return cls(os.getcwd())

        def expanduser(self) -> Any:
            return type(self)(flavour.expanduser(str(self)))

        def exists(self, *, follow_symlinks: bool = True) -> bool:
            return bool((flavour.exists if follow_symlinks else flavour.lexists)(self))

        def is_file(self, *, follow_symlinks: bool = True) -> bool:
            return bool(flavour.isfile(self)) and (follow_symlinks or not self.is_symlink())

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            return bool(flavour.isdir(self)) and (follow_symlinks or not self.is_symlink())

        def is_mount(self) -> bool:
            return bool(flavour.ismount(self))

        def is_junction(self) -> bool:
            return False

        is_socket, is_fifo = _of_kind(stat.S_ISSOCK), _of_kind(stat.S_ISFIFO)
        is_block_device, is_char_device = _of_kind(stat.S_ISBLK), _of_kind(stat.S_ISCHR)

        def owner(self, *, follow_symlinks: bool = True) -> str:
            stat_(self, follow_symlinks=follow_symlinks)
            return "sandbox"

        group = owner

        def is_symlink(self) -> bool:
            return bool(flavour.islink(self))

        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            return stat_(self, follow_symlinks=follow_symlinks)

        def lstat(self) -> os.stat_result:
            return stat_(self, follow_symlinks=False)

        def open(self, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                 newline: Any = None) -> Any:  # fmt: skip
            return open_file(self, mode, buffering, encoding, errors, newline)

        def read_text(self, encoding: Any = None, errors: Any = None, newline: Any = None) -> str:
            with open_file(self, "r", encoding=encoding, errors=errors, newline=newline) as file:
                return str(file.read())

        def read_bytes(self) -> bytes:
            with open_file(self, "rb") as file:
                return bytes(file.read())

        def write_text(self, data: str, encoding: Any = None, errors: Any = None, newline: Any = None) -> int:
            if not isinstance(data, str):
                raise TypeError(f"data must be str, not {type(data).__name__}")
            with open_file(self, "w", encoding=encoding, errors=errors, newline=newline) as file:
                return int(file.write(data))

        def write_bytes(self, data: Any) -> int:
            with open_file(self, "wb") as file:
                return int(file.write(memoryview(data)))

        def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            if parents:
                makedirs(self, mode, exist_ok)
                return
            try:
                with Checked(self) as real:
                    os.mkdir(real, mode)
            except FileExistsError:
                if not exist_ok or not self.is_dir():
                    raise

        def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
            if self.exists():
                if not exist_ok:
                    raise FileExistsError(17, "File exists", str(self))
                os.utime(check(self))
                return
            open_file(self, "a").close()

        def unlink(self, missing_ok: bool = False) -> None:
            try:
                with Checked(self, False) as real:
                    os.unlink(real)
            except FileNotFoundError:
                if not missing_ok:
                    raise

        def rmdir(self) -> None:
            with Checked(self) as real:
                os.rmdir(real)

        def rename(self, target: Any) -> Any:
            with Checked(self, False) as source, Checked(target, False) as place:
                os.rename(source, place)
            return type(self)(target)

        def replace(self, target: Any) -> Any:
            with Checked(self, False) as source, Checked(target, False) as place:
                os.replace(source, place)
            return type(self)(target)

        def symlink_to(self, target: Any, target_is_directory: bool = False) -> None:
            symlink(target, self)

        def hardlink_to(self, target: Any) -> None:
            link(target, self)

        def readlink(self) -> Any:
            return type(self)(readlink(self))

        if hasattr(pathlib.Path, "from_uri"):

            @classmethod
            def from_uri(cls, uri: str) -> Any:
                made: Any = pathlib.PosixPath
                return cls(str(made.from_uri(exact_name(uri))))

        def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
            if not follow_symlinks:
                raise NotImplementedError("chmod: follow_symlinks unavailable on this platform")
            with Checked(self) as real:
                os.chmod(real, mode)

        def absolute(self) -> Any:
            return self if self.is_absolute() else type(self)(os.path.join(os.getcwd(), str(self)))

        def resolve(self, strict: bool = False) -> Any:
            return type(self)(resolved(self, bool(strict)))

        def samefile(self, other: Any) -> bool:
            return os.path.samefile(check(self), check(other))

        def iterdir(self) -> Iterator[Any]:
            return iter([self / name for name in listdir(self)])

        def glob(self, pattern: str, *, case_sensitive: bool | None = None) -> Iterator[Any]:
            return _found(self, "glob", pattern, case_sensitive)

        def rglob(self, pattern: str, *, case_sensitive: bool | None = None) -> Iterator[Any]:
            return _found(self, "rglob", pattern, case_sensitive)

        def walk(self, top_down: bool = True, on_error: Any = None) -> Iterator[Any]:
            for folder, folders, files in walk(self, top_down, on_error):
                yield type(self)(folder), folders, files

    PosixPath.__module__ = __name__
    PosixPath.__qualname__ = "PosixPath"
    PurePosixPath.__qualname__ = "PurePosixPath"
    return {
        "Path": PosixPath, "PosixPath": PosixPath, "PurePath": PurePosixPath, "PurePosixPath": PurePosixPath, "PureWindowsPath": pathlib.PureWindowsPath,
    }  # fmt: skip


def _found(self: Any, method: str, pattern: str, case_sensitive: bool | None) -> Iterator[Any]:
    text = text_path(self)
    real = check(text)
    more = {} if case_sensitive is None else {"case_sensitive": bool(case_sensitive)}  # new in 3.12
    found = getattr(pathlib.Path(real), method)(_inside(pattern), **more)
    return iter([type(self)(named_as(text, real, str(p))) for p in found])


def _of_kind(test: Callable[[int], bool]) -> Callable[[Any], bool]:
    def ask(self: Any) -> bool:
        try:
            return bool(test(stat_(self).st_mode))
        except (OSError, ValueError):
            return False

    return ask


def _no_remembered_modules() -> None:
    """From 3.12 on pathlib remembers of a path's flavour, which is a module, what it was asked: what says that it equals that was shown it."""
    for name, module in list(sys.modules.items()):
        asked: Any = getattr(module, "_is_case_sensitive", None) if name.partition(".")[0] == "pathlib" else None
        if hasattr(asked, "__wrapped__"):
            setattr(module, "_is_case_sensitive", asked.__wrapped__)  # noqa: B010


def _inside(pattern: Any) -> str:
    text = exact_name(pattern)
    if leads_up(text) or text.startswith("/"):
        raise PathRefused("a pattern may not leave its directory in this sandbox")
    return text


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "pathlib": _pathlib,
}
