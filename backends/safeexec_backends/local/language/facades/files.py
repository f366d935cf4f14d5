"""Files: ``open``, os, pathlib, shutil, glob, tempfile, io, gzip, zipfile, sqlite3 within the working directory and /tmp.

Every path is resolved and compared before it is used, so that a program gets a clear answer. What finally holds is the operating
system's wall: this check and the use of the path are two moments.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeexec.guest import Refused
from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import LanguageRefused, as_builtin, class_dict, class_mro, exact_name

from . import make

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_roots: list[str] = []


class PathRefused(PermissionError, Refused):
    """A path outside of what a program may touch."""


as_builtin(PathRefused, "PermissionError")


def set_roots(*roots: str) -> None:
    """The directories that programs of this process may touch."""
    _roots[:] = [os.path.realpath(r) for r in roots]


def text_path(path: Any) -> str:
    """A path as an exact str, asked once."""
    if isinstance(path, bytes):
        return os.fsdecode(bytes(path))
    if not isinstance(path, str):
        path = os.fspath(path)
        if isinstance(path, bytes):
            return os.fsdecode(bytes(path))
    return str.__str__(path)


def check(path: Any, follow: bool = True) -> str:
    """The resolved path.

    :param follow: whether a symbolic link at the end is followed; what is removed or renamed is the link itself.
    :raises PathRefused: outside of the working directory and the temporary directory.
    """
    given = text_path(path)
    if follow:
        real = os.path.realpath(given)
    else:
        folder, name = os.path.split(os.path.abspath(given))
        real = os.path.join(os.path.realpath(folder), name)
    if real == "/dev/null" or any(real == root or real.startswith(root.rstrip("/") + "/") for root in _roots):
        return real
    import errno

    raise PathRefused(errno.EACCES, "only the working directory and /tmp can be used in this sandbox", given)


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
    if isinstance(file, int):
        raise PathRefused("file descriptors cannot be opened in this sandbox")
    if opener is not None:
        raise TypeError("open() takes no opener in this sandbox")
    if buffering == 0:
        raise ValueError("unbuffered files are not available in this sandbox")
    mode = exact_name(mode)
    path = text_path(file)
    real = check(path)

    def open_checked(_: str, flags: int) -> int:
        # The place that was checked: a relative path means another one once a thread has changed the directory.
        try:
            return os.open(real, flags, 0o666)
        except OSError as error:
            error.filename = path
            raise

    return builtins.open(path, mode, buffering, encoding, errors, newline, opener=open_checked)


# -- os --------------------------------------------------------------------------------------------------------------------

_PATH_PURE = """abspath basename commonpath commonprefix dirname isabs join normcase normpath relpath split splitdrive splitext
    splitroot sep altsep extsep pathsep curdir pardir defpath devnull supports_unicode_filenames"""


def _os_path(language: RestrictedLanguage) -> Exports:
    exports = {n: getattr(os.path, n) for n in _PATH_PURE.split() if hasattr(os.path, n)}

    def quietly(test: Callable[[str], Any], follow: bool = True) -> Callable[[Any], bool]:
        def ask(path: Any) -> bool:
            try:
                return bool(test(check(path, follow)))
            except (OSError, ValueError):
                return False

        return ask

    for name in ("exists", "isfile", "isdir", "ismount"):
        exports[name] = quietly(getattr(os.path, name))
    exports["islink"] = quietly(os.path.islink, follow=False)
    exports["lexists"] = quietly(os.path.lexists, follow=False)
    for name in ("getsize", "getmtime", "getatime", "getctime"):
        exports[name] = _checked(getattr(os.path, name))
    environ = language.environ

    def expanduser(path: Any) -> str:
        text = text_path(path)
        return os.getcwd() + text[1:] if text[:1] == "~" and text[1:2] in ("", "/") else text

    def expandvars(path: Any) -> str:
        import re

        def value(match: Any) -> str:
            name = match.group(1).strip("{}")
            return str(environ.get(name, match.group(0)))

        return re.sub(r"\$(\w+|\{[^}]*\})", value, text_path(path))

    def samefile(a: Any, b: Any) -> bool:
        return os.path.samefile(check(a), check(b))

    return exports | {
        "expanduser": expanduser, "expandvars": expandvars, "samefile": samefile, "realpath": lambda p, **_: os.path.realpath(text_path(p)),
    }  # fmt: skip


def _checked(function: Callable[..., Any], follow: bool = True) -> Callable[..., Any]:
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if "dir_fd" in kwargs or "src_dir_fd" in kwargs or "dst_dir_fd" in kwargs:
            raise TypeError("directory descriptors are not available in this sandbox")
        return function(check(path, follow), *args, **kwargs)

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def _two(function: Callable[[str, str], Any]) -> Callable[[Any, Any], Any]:
    def call(src: Any, dst: Any) -> Any:
        return function(check(src, False), check(dst, False))

    call.__name__ = call.__qualname__ = function.__name__
    return call


def _listdir(path: Any = ".") -> list[str]:
    return os.listdir(check(path))


def _scandir(path: Any = ".") -> Any:
    text = text_path(path)
    check(text)
    return os.scandir(text)


def _walk(top: Any, topdown: bool = True, onerror: Any = None, followlinks: bool = False) -> Iterator[Any]:
    text = text_path(top)  # asked once: a program's own path could answer differently the second time
    check(text)
    if followlinks:
        raise ValueError("walk() does not follow links in this sandbox")
    return os.walk(text, bool(topdown), onerror, False)


def _makedirs(name: Any, mode: int = 0o777, exist_ok: bool = False) -> None:
    os.makedirs(check(name), mode, exist_ok)


def _stat_(path: Any, *, follow_symlinks: bool = True) -> os.stat_result:
    return os.stat(check(path, follow_symlinks), follow_symlinks=follow_symlinks)


def _access(path: Any, mode: int) -> bool:
    try:
        return os.access(check(path), mode)
    except OSError:
        return False


def _os(language: RestrictedLanguage) -> Exports:
    environ = language.environ

    def getenv(key: str, default: Any = None) -> Any:
        return environ.get(key, default)

    exports: Exports = {
        "listdir": _listdir, "scandir": _scandir, "walk": _walk, "makedirs": _makedirs, "stat": _stat_, "access": _access,
        "mkdir": _checked(os.mkdir), "rmdir": _checked(os.rmdir), "remove": _checked(os.remove, False),
        "unlink": _checked(os.unlink, False), "removedirs": _checked(os.removedirs), "chdir": _checked(os.chdir),
        "lstat": _checked(os.lstat, False), "truncate": _checked(os.truncate), "utime": _checked(os.utime), "chmod": _checked(os.chmod),
        "get_terminal_size": lambda fd=1: os.terminal_size((80, 24)), "getuid": lambda: 1000, "geteuid": lambda: 1000, "getgid": lambda: 1000, "getegid": lambda: 1000,
        "rename": _two(os.rename), "replace": _two(os.replace), "environ": environ, "getenv": getenv,
        "path": make("os.path", _os_path(language)), "cpu_count": lambda: 1, "getlogin": lambda: "sandbox",
        "getpid": os.getpid,
    }  # fmt: skip
    for (
        name
    ) in """getcwd fspath fsencode fsdecode urandom sep altsep extsep pathsep linesep curdir pardir devnull name error
        PathLike stat_result F_OK R_OK W_OK X_OK strerror""".split():
        exports[name] = getattr(os, name)
    return exports


# -- pathlib ---------------------------------------------------------------------------------------------------------------


def _pathlib(language: RestrictedLanguage) -> Exports:
    import pathlib

    flavour = language.gate.build("os").path

    class PurePosixPath(pathlib.PurePosixPath):
        __slots__ = ()
        parser = flavour  # from 3.13 on this is the module posixpath

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
            return bool(flavour.exists(self))

        def is_file(self) -> bool:
            return bool(flavour.isfile(self))

        def is_dir(self) -> bool:
            return bool(flavour.isdir(self))

        def is_symlink(self) -> bool:
            return bool(flavour.islink(self))

        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            return _stat_(self, follow_symlinks=follow_symlinks)

        def lstat(self) -> os.stat_result:
            return _stat_(self, follow_symlinks=False)

        def open(self, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                 newline: Any = None) -> Any:  # fmt: skip
            return open_file(self, mode, buffering, encoding, errors, newline)

        def read_text(self, encoding: Any = None, errors: Any = None) -> str:
            with open_file(self, "r", encoding=encoding, errors=errors) as file:
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
                _makedirs(self, mode, exist_ok)
                return
            try:
                os.mkdir(check(self), mode)
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
                os.unlink(check(self, False))
            except FileNotFoundError:
                if not missing_ok:
                    raise

        def rmdir(self) -> None:
            os.rmdir(check(self))

        def rename(self, target: Any) -> Any:
            os.rename(check(self, False), check(target, False))
            return type(self)(target)

        def replace(self, target: Any) -> Any:
            os.replace(check(self, False), check(target, False))
            return type(self)(target)

        def absolute(self) -> Any:
            return self if self.is_absolute() else type(self)(os.path.join(os.getcwd(), str(self)))

        def resolve(self, strict: bool = False) -> Any:
            return type(self)(os.path.realpath(str(self), strict=strict))

        def samefile(self, other: Any) -> bool:
            return os.path.samefile(check(self), check(other))

        def iterdir(self) -> Iterator[Any]:
            return iter([self / name for name in _listdir(self)])

        def glob(self, pattern: str) -> Iterator[Any]:
            text = text_path(self)
            check(text)
            return iter([type(self)(str(p)) for p in pathlib.Path(text).glob(_inside(pattern))])

        def rglob(self, pattern: str) -> Iterator[Any]:
            text = text_path(self)
            check(text)
            return iter([type(self)(str(p)) for p in pathlib.Path(text).rglob(_inside(pattern))])

        def walk(self, top_down: bool = True, on_error: Any = None) -> Iterator[Any]:
            for folder, folders, files in _walk(self, top_down, on_error):
                yield type(self)(folder), folders, files

    PosixPath.__module__ = __name__
    PosixPath.__qualname__ = "PosixPath"
    PurePosixPath.__qualname__ = "PurePosixPath"
    return {
        "Path": PosixPath, "PosixPath": PosixPath, "PurePath": PurePosixPath, "PurePosixPath": PurePosixPath,
    }  # fmt: skip


def _inside(pattern: Any) -> str:
    text = exact_name(pattern)
    if ".." in text.split("/") or text.startswith("/"):
        raise PathRefused("a pattern may not leave its directory in this sandbox")
    return text


# -- shutil, glob, tempfile ------------------------------------------------------------------------------------------------


def _shutil(language: RestrictedLanguage) -> Exports:
    import shutil

    def into(src: Any, dst: Any) -> tuple[str, str]:
        source, target = check(src), check(dst)
        return source, os.path.join(target, os.path.basename(source)) if os.path.isdir(target) else target

    def copyfile(src: Any, dst: Any, *, follow_symlinks: bool = True) -> Any:
        shutil.copyfile(check(src), check(dst))
        return dst

    def copy(src: Any, dst: Any, *, follow_symlinks: bool = True) -> str:
        source, target = into(src, dst)
        shutil.copyfile(source, check(target))
        return target if os.path.isdir(check(dst)) else text_path(dst)

    def move(src: Any, dst: Any) -> Any:
        source = check(src, False)
        target = check(dst)
        if os.path.isdir(target):
            target = os.path.join(target, os.path.basename(source))
        os.rename(source, check(target, False))
        return dst

    def rmtree(path: Any, ignore_errors: bool = False, onerror: Any = None) -> None:
        try:
            shutil.rmtree(check(path, False))
        except OSError:
            if not ignore_errors:
                raise

    def copytree(src: Any, dst: Any, symlinks: bool = False, ignore: Any = None, copy_function: Any = None,
                 ignore_dangling_symlinks: bool = False, dirs_exist_ok: bool = False) -> Any:  # fmt: skip
        shutil.copytree(check(src), check(dst), symlinks=True, ignore=ignore, dirs_exist_ok=dirs_exist_ok)
        return dst

    def make_archive(
        base_name: Any, format: str, root_dir: Any = None, base_dir: Any = None, *args: Any, **more: Any
    ) -> str:
        """As `shutil.make_archive`."""
        from .archives import pack

        return pack(language, text_path(base_name), exact_name(format), root_dir, base_dir)

    def unpack_archive(filename: Any, extract_dir: Any = None, format: Any = None, *args: Any, **more: Any) -> None:
        """As `shutil.unpack_archive`."""
        from .archives import unpack

        unpack(language, text_path(filename), extract_dir, format)

    def disk_usage(path: Any) -> Any:
        return shutil.disk_usage(check(path))

    def which(cmd: Any, *args: Any, **kwargs: Any) -> None:
        return None

    return {
        "make_archive": make_archive, "unpack_archive": unpack_archive, "ignore_patterns": shutil.ignore_patterns,
        "copyfile": copyfile, "copy": copy, "copy2": copy, "move": move, "rmtree": rmtree, "copytree": copytree,
        "disk_usage": disk_usage, "which": which, "copyfileobj": shutil.copyfileobj, "Error": shutil.Error,
        "SameFileError": shutil.SameFileError, "get_terminal_size": lambda fallback=(80, 24): os.terminal_size(fallback),
    }  # fmt: skip


def _glob(language: RestrictedLanguage) -> Exports:
    import glob

    def find(
        pathname: Any, *, root_dir: Any = None, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        pattern = text_path(pathname)
        if root_dir is not None:
            root_dir = text_path(root_dir)
            check(root_dir)
        else:
            fixed = pattern
            while glob.has_magic(fixed):
                fixed = os.path.dirname(fixed)
            check(fixed or ".")
        if ".." in pattern.split("/") and glob.has_magic(pattern):
            raise PathRefused("a pattern may not leave its directory in this sandbox")
        return glob.glob(pattern, root_dir=root_dir, recursive=recursive, include_hidden=include_hidden)

    def ifind(pathname: Any, **options: Any) -> Iterator[str]:
        return iter(find(pathname, **options))

    find.__name__ = "glob"
    ifind.__name__ = "iglob"
    return {"glob": find, "iglob": ifind, "escape": glob.escape, "has_magic": glob.has_magic}


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

    def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> Any:
        raise LanguageRefused(
            "mkstemp() gives a file descriptor, which is no use in this sandbox: use NamedTemporaryFile"
        )

    return {
        "gettempdir": gettempdir, "mkdtemp": mkdtemp, "TemporaryDirectory": TemporaryDirectory, "mkstemp": mkstemp, "mktemp": mktemp,
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


# -- files in files --------------------------------------------------------------------------------------------------------


def _io(language: RestrictedLanguage) -> Exports:
    import io

    shown = """BufferedIOBase BufferedRWPair BufferedRandom BufferedReader BufferedWriter BytesIO DEFAULT_BUFFER_SIZE IOBase
        IncrementalNewlineDecoder RawIOBase SEEK_CUR SEEK_END SEEK_SET StringIO TextIOBase TextIOWrapper
        UnsupportedOperation BlockingIOError text_encoding""".split()
    return {n: getattr(io, n) for n in shown if hasattr(io, n)} | {"open": open_file}


def _gzip(language: RestrictedLanguage) -> Exports:
    import gzip

    class GzipFile(gzip.GzipFile):
        """As `gzip.GzipFile`."""

        def __init__(self, filename: Any = None, mode: Any = None, compresslevel: int = 9, fileobj: Any = None,
                     mtime: Any = None) -> None:  # fmt: skip
            mode = exact_name(mode or "rb")
            if fileobj is None:
                fileobj = open_file(filename, mode.replace("t", "").replace("b", "") + "b")
                super().__init__("", mode, compresslevel, fileobj, mtime)
                self.myfileobj = fileobj  # closed with it
            else:
                super().__init__("", mode, compresslevel, fileobj, mtime)

    GzipFile.__module__ = __name__
    deny_class(gzip.GzipFile)

    def open_(filename: Any, mode: Any = "rb", compresslevel: int = 9, encoding: Any = None, errors: Any = None,
              newline: Any = None) -> Any:  # fmt: skip
        import io

        mode = exact_name(mode)
        if is_stream(filename):
            raw = GzipFile(None, mode.replace("t", ""), compresslevel, filename)
        else:
            raw = GzipFile(filename, mode.replace("t", ""), compresslevel)
        return io.TextIOWrapper(raw, encoding, errors, newline) if "t" in mode else raw

    open_.__name__ = "open"
    return {"compress": gzip.compress, "decompress": gzip.decompress, "BadGzipFile": gzip.BadGzipFile, "open": open_,
            "GzipFile": GzipFile}  # fmt: skip


def _zipfile(language: RestrictedLanguage) -> Exports:
    import zipfile

    class ZipFile(zipfile.ZipFile):
        """As `zipfile.ZipFile`."""

        def __init__(self, file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> None:
            if not is_stream(file):
                file = check(file)
            raw: Any = super()
            raw.__init__(file, exact_name(mode), *args, **kwargs)

        def extract(self, member: Any, path: Any = None, pwd: Any = None) -> str:
            return super().extract(member, check(os.getcwd() if path is None else path), pwd)

        def extractall(self, path: Any = None, members: Any = None, pwd: Any = None) -> None:
            super().extractall(check(os.getcwd() if path is None else path), members, pwd)

        def _extract_member(self, member: Any, targetpath: Any, pwd: Any) -> str:
            import shutil

            if not isinstance(member, zipfile.ZipInfo):
                member = self.getinfo(member)
            # Asked once, as an exact str: one of the program's own could answer each of the standard method's questions differently.
            name = exact_name(member.filename)
            parts = [part for part in name.split("/") if part not in ("", ".", "..")]
            target = check(os.path.join(check(targetpath), *parts))
            if name.endswith("/"):
                os.makedirs(target, exist_ok=True)
                return target
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with self.open(member, pwd=pwd) as source, open_file(target, "wb") as file:
                shutil.copyfileobj(source, file)
            return target

        def write(self, filename: Any, arcname: Any = None, *args: Any, **kwargs: Any) -> None:
            super().write(check(filename), text_path(filename) if arcname is None else arcname, *args, **kwargs)

    ZipFile.__module__ = __name__
    deny_class(zipfile.ZipFile)
    # What the module opens after all, it opens as a program would: an object that is a stream when `is_stream` looks at it may
    # have become a path when CPython does.
    vars(zipfile).update(open=open_file, io=make("io", {**_io(language), "open": open_file}))
    if zipfile.ZipInfo not in _checked_stat:
        _checked_stat.append(zipfile.ZipInfo)
        from_file: Any = zipfile.ZipInfo.__dict__["from_file"].__func__

        def checked(cls: Any, /, filename: Any, arcname: Any = None, **options: Any) -> Any:
            path = text_path(filename)
            check(path)
            return from_file(cls, path, path if arcname is None else arcname, **options)

        setattr(zipfile.ZipInfo, "from_file", classmethod(checked))  # noqa: B010  # it tells of any file's size and time

    def is_zipfile(filename: Any) -> bool:
        return zipfile.is_zipfile(filename if is_stream(filename) else check(filename))

    shown = """BadZipFile BadZipfile LargeZipFile ZIP_BZIP2 ZIP_DEFLATED ZIP_LZMA ZIP_STORED ZipInfo error""".split()
    return {n: getattr(zipfile, n) for n in shown} | {"ZipFile": ZipFile, "is_zipfile": is_zipfile}


_checked_stat: list[type] = []


def _compressors(name: str) -> Callable[[RestrictedLanguage], Exports]:
    def build(language: RestrictedLanguage) -> Exports:
        import importlib

        module = importlib.import_module(name)
        return {n: getattr(module, n) for n in ("compress", "decompress")}

    return build


def _sqlite3(language: RestrictedLanguage) -> Exports:
    import sqlite3

    def authorize(action: int, first: Any, second: Any, database: Any, trigger: Any) -> int:
        if action == 24:  # SQLITE_ATTACH opens a file
            if first in ("", ":memory:"):
                return sqlite3.SQLITE_OK
            if first is None or first.startswith("file:"):
                return sqlite3.SQLITE_DENY  # a name that is computed is not told; "file:" may be a URI, and so any path
            try:
                check(first)
            except OSError:
                return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    class Connection(sqlite3.Connection):
        """As `sqlite3.Connection`, in memory or within the places that `open` allows."""

        def __init__(self, database: Any, timeout: float = 5.0, detect_types: int = 0, isolation_level: Any = "",
                     check_same_thread: bool = True, factory: Any = None, cached_statements: int = 128,
                     uri: bool = False, **more: Any) -> None:  # fmt: skip
            name = text_path(database)
            if uri:
                if name not in ("file::memory:", "file::memory:?cache=shared"):
                    raise PathRefused("database URIs are not available in this sandbox")
            elif name not in (":memory:", ""):
                name = check(name)
            super().__init__(name, timeout, detect_types, isolation_level, check_same_thread,
                             cached_statements=cached_statements, uri=uri, **more)  # fmt: skip
            super().set_authorizer(authorize)

    Connection.__module__ = __name__
    deny_class(sqlite3.Connection)

    def connect(database: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """As `sqlite3.connect`."""
        if kwargs.pop("factory", None) is not None or len(args) > 4:
            raise TypeError("connect() takes no factory in this sandbox")
        return Connection(database, *args, **kwargs)

    shown = [
        n
        for n in dir(sqlite3)
        if n.startswith("SQLITE_")
        or (isinstance(getattr(sqlite3, n), type) and issubclass(getattr(sqlite3, n), Exception))
    ]
    shown += """Binary Date DateFromTicks PARSE_COLNAMES PARSE_DECLTYPES Row Time TimeFromTicks Timestamp TimestampFromTicks
        adapters apilevel complete_statement converters paramstyle register_adapter register_converter sqlite_version
        sqlite_version_info threadsafety Cursor""".split()
    return {n: getattr(sqlite3, n) for n in shown if hasattr(sqlite3, n)} | {
        "connect": connect,
        "Connection": Connection,
    }


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "os": _os,
    "os.path": lambda language: {"": language.gate.build("os").path},
    "pathlib": _pathlib,
    "shutil": _shutil,
    "glob": _glob,
    "tempfile": _tempfile,
    "io": _io,
    "gzip": _gzip,
    "zipfile": _zipfile,
    "bz2": _compressors("bz2"),
    "lzma": _compressors("lzma"),
    "sqlite3": _sqlite3,
}
