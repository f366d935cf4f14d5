"""os, shutil and glob within the working directory and /tmp."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import exact_name

from . import descriptors, links
from .facade import make
from .paths import Checked, PathRefused, check, leads_up, named_as, open_file, text_path

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


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

    def realpath(filename: Any, *, strict: Any = False) -> str:
        return resolved(filename, bool(strict))

    return exports | {
        "expanduser": expanduser, "expandvars": expandvars, "samefile": samefile, "realpath": realpath,
    }  # fmt: skip


def _checked(function: Callable[..., Any], follow: bool = True) -> Callable[..., Any]:
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if "dir_fd" in kwargs or "src_dir_fd" in kwargs or "dst_dir_fd" in kwargs:
            raise TypeError("directory descriptors are not available in this sandbox")
        with Checked(path, follow) as real:
            return function(real, *args, **kwargs)

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def _two(function: Callable[[str, str], Any]) -> Callable[[Any, Any], Any]:
    def call(src: Any, dst: Any) -> Any:
        with Checked(src, False) as source, Checked(dst, False) as target:
            return function(source, target)

    call.__name__ = call.__qualname__ = function.__name__
    return call


def listdir(path: Any = ".") -> list[str]:
    with Checked(path) as real:
        return os.listdir(real)


def _scandir(path: Any = ".") -> Any:
    text = text_path(path)
    real = check(text)
    # An entry looks at its file when it is asked, wherever ".." leads by then.
    return os.scandir(real if leads_up(text) else text)


def walk(top: Any, topdown: bool = True, onerror: Any = None, followlinks: bool = False) -> Iterator[Any]:
    text = text_path(top)  # asked once: a program's own path could answer differently the second time
    # Of the empty one the real walk finds nothing, and says so to `onerror`.
    real = check(text) if text else text
    if followlinks:
        raise ValueError("walk() does not follow links in this sandbox")
    return _walk(text, real, bool(topdown), onerror)


def _walk(given: str, real: str, topdown: bool, onerror: Any) -> Iterator[Any]:
    """The place that was checked is walked through: a relative path means another one once the directory has changed."""

    def failed(error: OSError) -> None:
        if onerror is not None:
            error.filename = named_as(given, real, error.filename)
            onerror(error)

    for folder, folders, files in os.walk(real, topdown, failed, False):
        # Where to go on is said by the list that is shown: of what it holds by then, what was checked is walked through, in a list that nobody else has.
        shown = list(folders)
        yield named_as(given, real, folder), shown, files
        if topdown:
            folders[:] = [text_path(name) for name in list(shown)]
            for name in folders:
                check(os.path.join(folder, name))
                if leads_up(name):  # behind a link that a thread exchanges
                    raise PathRefused("a walk goes on below its folder in this sandbox")


def _removedirs(name: Any) -> None:
    """As `os.removedirs`, which would go on with what is above the working directory."""
    path = text_path(name)
    with Checked(path) as real:
        os.rmdir(real)
    path = path.rstrip("/")
    while path := os.path.dirname(path).rstrip("/"):
        try:
            os.rmdir(check(path))
        except OSError:
            break


def _renames(old: Any, new: Any) -> None:
    """As `os.renames`."""
    source, target = text_path(old), text_path(new)
    if folder := os.path.dirname(target):
        makedirs(folder, exist_ok=True)
    _two(os.rename)(source, target)
    if folder := os.path.dirname(source):
        with contextlib.suppress(OSError):
            _removedirs(folder)


def resolved(path: Any, strict: bool = False) -> str:
    """As `os.path.realpath`. Of other places a program shall not learn where their links lead, nor what there is.

    :raises PathRefused: of another place, when it has to exist.
    """
    given = text_path(path)
    try:
        check(given or os.curdir)
    except PathRefused:
        if strict:
            raise
        return os.path.abspath(given)
    return os.path.realpath(given, strict=strict)


def makedirs(name: Any, mode: int = 0o777, exist_ok: bool = False) -> None:
    with Checked(name) as real:
        os.makedirs(real, mode, exist_ok)


def stat_(path: Any, *, follow_symlinks: bool = True) -> os.stat_result:
    follow_symlinks = bool(follow_symlinks)  # asked once: what was checked is what is looked at
    with Checked(path, follow_symlinks) as real:
        return os.stat(real, follow_symlinks=follow_symlinks)


def _access(path: Any, mode: int) -> bool:
    try:
        return os.access(check(path), mode)
    except OSError:
        return False


def _os(language: RestrictedLanguage) -> Exports:
    environ = language.environ

    def getenv(key: str, default: Any = None) -> Any:
        return environ.get(key, default)

    def fsync(fd: Any) -> None:
        """As `os.fsync`. The files of a session are in memory: there is nothing to wait for."""
        operator.index(fd if isinstance(fd, int) else fd.fileno())

    def fdopen(fd: Any, mode: Any = "r", buffering: int = -1, encoding: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `os.fdopen`."""
        if not isinstance(fd, int):
            raise TypeError(f"invalid fd type ({type(fd)}, expected integer)")
        return open_file(fd, mode, buffering, encoding, *args, **kwargs)

    def umask(mask: int, /) -> int:
        """As `os.umask`."""
        return os.umask(operator.index(mask) & 0o777)

    exports: Exports = {
        "listdir": listdir, "scandir": _scandir, "walk": walk, "makedirs": makedirs, "stat": stat_, "access": _access,
        "mkdir": _checked(os.mkdir), "rmdir": _checked(os.rmdir), "remove": _checked(os.remove, False),
        "unlink": _checked(os.unlink, False), "removedirs": _removedirs, "chdir": _checked(os.chdir),
        "lstat": _checked(os.lstat, False), "truncate": _checked(os.truncate), "utime": _checked(os.utime), "chmod": _checked(os.chmod),
        "get_terminal_size": lambda fd=1: os.terminal_size((80, 24)), "getuid": lambda: 1000, "geteuid": lambda: 1000, "getgid": lambda: 1000, "getegid": lambda: 1000,
        "symlink": links.symlink, "readlink": links.readlink, "link": links.link, "rename": _two(os.rename), "renames": _renames, "replace": _two(os.replace), "environ": environ, "getenv": getenv,
        "path": make("os.path", _os_path(language)), "cpu_count": lambda: 1, **({"process_cpu_count": lambda: 1} if hasattr(os, "process_cpu_count") else {}), "getlogin": lambda: "sandbox",
        "getpid": os.getpid, "fsync": fsync, "fdatasync": fsync, "isatty": lambda fd: False, "sched_getaffinity": lambda pid: {0},
        "uname": lambda: os.uname_result(("Linux", "sandbox", "", "", "")), "getcwdb": os.getcwdb,
    }  # fmt: skip
    exports |= {
        "open": descriptors.open_, "close": descriptors.close, "read": descriptors.read, "write": descriptors.write, "lseek": descriptors.lseek,
        "ftruncate": descriptors.ftruncate, "dup": descriptors.dup, "pipe": descriptors.pipe, "fstat": descriptors.fstat, "fdopen": fdopen,
        "umask": umask, **descriptors.FLAGS,
    }  # fmt: skip
    for name in """SEEK_SET SEEK_CUR SEEK_END DirEntry EX_CANTCREAT EX_CONFIG EX_DATAERR EX_IOERR EX_NOHOST EX_NOINPUT EX_NOPERM EX_NOUSER EX_OK
        EX_OSERR EX_OSFILE EX_PROTOCOL EX_SOFTWARE EX_TEMPFAIL EX_UNAVAILABLE EX_USAGE defpath terminal_size times times_result uname_result getcwd fspath fsencode fsdecode urandom sep altsep extsep pathsep linesep curdir pardir devnull name error
        PathLike stat_result F_OK R_OK W_OK X_OK strerror""".split():
        exports[name] = getattr(os, name)
    return exports


# -- shutil, glob, tempfile ------------------------------------------------------------------------------------------------


def _shutil(language: RestrictedLanguage) -> Exports:
    import shutil

    def copyfile(src: Any, dst: Any, *, follow_symlinks: bool = True) -> Any:
        with Checked(src) as source, Checked(dst) as target:
            shutil.copyfile(source, target)
        return dst

    def copymode(src: Any, dst: Any, *, follow_symlinks: bool = True) -> None:
        shutil.copymode(check(src), check(dst))

    def copystat(src: Any, dst: Any, *, follow_symlinks: bool = True) -> None:
        shutil.copystat(check(src), check(dst))

    def copied(src: Any, dst: Any, finish: Callable[[str, str], None]) -> str:
        given = text_path(dst)
        with Checked(src) as source, Checked(given) as target:
            if os.path.isdir(target):
                given = os.path.join(given, os.path.basename(source))
                target = check(given)
            shutil.copyfile(source, target)
            finish(source, target)
        return given

    def copy(src: Any, dst: Any, *, follow_symlinks: bool = True) -> str:
        return copied(src, dst, shutil.copymode)

    def copy2(src: Any, dst: Any, *, follow_symlinks: bool = True) -> str:
        return copied(src, dst, shutil.copystat)

    def move(src: Any, dst: Any, copy_function: Any = None) -> Any:
        given = text_path(dst)
        with Checked(src, False) as source, Checked(given) as target:
            os.lstat(source)  # an error of the move itself would name both
            if os.path.isdir(target):
                given = os.path.join(given, os.path.basename(source))
                if os.path.lexists(check(given, False)):
                    raise shutil.Error(f"Destination path '{given}' already exists")
            target = check(given, False)
            try:
                os.rename(source, target)
            except OSError as error:
                # The working directory and /tmp may be parts of the same disk that are mounted apart.
                if error.errno != errno.EXDEV:
                    raise
                shutil.move(source, target, *(() if copy_function is None else (copy_function,)))
        return given

    def rmtree(path: Any, ignore_errors: bool = False, onerror: Any = None, *, onexc: Any = None) -> None:
        try:
            with Checked(path, False) as real:
                shutil.rmtree(real, ignore_errors)
        except OSError as error:
            if ignore_errors:
                return
            if onexc is not None:
                onexc(rmtree, path, error)
            elif onerror is not None:
                onerror(rmtree, path, (type(error), error, None))
            else:
                raise

    def copytree(src: Any, dst: Any, symlinks: bool = False, ignore: Any = None, copy_function: Any = None,
                 ignore_dangling_symlinks: bool = False, dirs_exist_ok: bool = False) -> Any:  # fmt: skip
        with Checked(src) as source, Checked(dst) as target:
            # A link stays a link: what it leads to has not been checked.
            shutil.copytree(
                source, target, symlinks=True, ignore=ignore, dirs_exist_ok=dirs_exist_ok,
                copy_function=shutil.copy2 if copy_function is None else copy_function,
            )  # fmt: skip
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

    def get_unpack_formats() -> list[tuple[str, list[str], str]]:
        """As `shutil.get_unpack_formats`."""
        return [(name, list(ends), text) for name, ends, text in shutil.get_unpack_formats()]

    def disk_usage(path: Any) -> Any:
        return shutil.disk_usage(check(path))

    def which(cmd: Any, *args: Any, **kwargs: Any) -> None:
        return None

    return {
        "make_archive": make_archive, "unpack_archive": unpack_archive, "ignore_patterns": shutil.ignore_patterns,
        "copyfile": copyfile, "copymode": copymode, "copystat": copystat, "copy": copy, "copy2": copy2, "move": move, "rmtree": rmtree, "copytree": copytree,
        "disk_usage": disk_usage, "which": which, "copyfileobj": shutil.copyfileobj, "Error": shutil.Error,
        "SameFileError": shutil.SameFileError, "get_archive_formats": shutil.get_archive_formats, "get_unpack_formats": get_unpack_formats, "get_terminal_size": lambda fallback=(80, 24): os.terminal_size(fallback),
    }  # fmt: skip


def _glob(language: RestrictedLanguage) -> Exports:
    import glob

    def find(
        pathname: Any, *, root_dir: Any = None, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        pattern = text_path(pathname)
        fixed = pattern
        while glob.has_magic(fixed):
            fixed = os.path.dirname(fixed)
        root_dir = check((text_path(root_dir) if root_dir is not None else "") or os.curdir)
        check(os.path.join(root_dir, fixed))  # joined as glob does: a pattern may begin at another place
        if leads_up(pattern) and glob.has_magic(pattern):
            raise PathRefused("a pattern may not leave its directory in this sandbox")
        return glob.glob(pattern, root_dir=root_dir, recursive=recursive, include_hidden=include_hidden)

    def ifind(pathname: Any, **options: Any) -> Iterator[str]:
        return iter(find(pathname, **options))

    find.__name__ = "glob"
    ifind.__name__ = "iglob"
    return {"glob": find, "iglob": ifind, "escape": glob.escape, "has_magic": glob.has_magic}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "os": _os,
    "os.path": lambda language: {"": language.gate.build("os").path},
    "shutil": _shutil,
    "glob": _glob,
}
