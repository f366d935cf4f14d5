"""Files in files, and in memory: io, gzip, zipfile, sqlite3."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import exact_name

from .buffers import behind
from .facade import make
from .paths import Checked, PathRefused, check, exact_bytes, is_stream, leads_up, open_file, text_path
from .written import ZIP_PATH, written

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _io(language: RestrictedLanguage) -> Exports:
    import io

    from .buffers import SHOWN

    shown = """BufferedIOBase BytesIO DEFAULT_BUFFER_SIZE IOBase IncrementalNewlineDecoder SEEK_CUR SEEK_END SEEK_SET StringIO TextIOBase
        TextIOWrapper UnsupportedOperation BlockingIOError text_encoding""".split()
    return {n: getattr(io, n) for n in shown if hasattr(io, n)} | SHOWN | {"open": open_file}


def _plain_name(path: Any) -> str | bytes:
    """A file's name as the header of an archive gets it."""
    path = os.fspath(path)
    return str.__str__(path) if isinstance(path, str) else exact_bytes(path)


def _gzip(language: RestrictedLanguage) -> Exports:
    import gzip

    class GzipFile(gzip.GzipFile):
        """As `gzip.GzipFile`."""

        def __init__(self, filename: Any = None, mode: Any = None, compresslevel: int = 9, fileobj: Any = None,
                     mtime: Any = None) -> None:  # fmt: skip
            mode = exact_name(mode or "rb")
            if fileobj is None:
                fileobj = open_file(filename, mode.replace("t", "").replace("b", "") + "b")
                super().__init__(_plain_name(filename), mode, compresslevel, fileobj, mtime)
                self.myfileobj = fileobj  # closed with it
            else:
                named = None if filename is None else _plain_name(filename)
                super().__init__(named, mode, compresslevel, fileobj, mtime)

        @property
        def mtime(self) -> Any:
            return behind(self._buffer)._last_mtime  # type: ignore[attr-defined]

    GzipFile.__module__ = __name__
    deny_class(gzip.GzipFile)
    vars(gzip).update(io=make("io", _io(language)))  # a program's subclass sees the buffer that it makes

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
            raw: Any = super()
            if is_stream(file):
                raw.__init__(file, exact_name(mode), *args, **kwargs)
                return
            given = text_path(file)
            with Checked(given) as real:
                raw.__init__(real, exact_name(mode), *args, **kwargs)
            self.filename = given

        def extract(self, member: Any, path: Any = None, pwd: Any = None) -> str:
            given = os.getcwd() if path is None else text_path(path)
            check(given)
            return super().extract(member, given, pwd)

        def extractall(self, path: Any = None, members: Any = None, pwd: Any = None) -> None:
            given = os.getcwd() if path is None else text_path(path)
            check(given)
            super().extractall(given, members, pwd)

        def _extract_member(self, member: Any, targetpath: Any, pwd: Any) -> str:
            import shutil

            if not isinstance(member, zipfile.ZipInfo):
                member = self.getinfo(member)
            # Asked once, as an exact str: one of the program's own could answer each of the standard method's questions differently.
            name = exact_name(member.filename)
            parts = [part for part in name.split("/") if part not in ("", ".", "..")]
            given = text_path(targetpath)
            target = check(os.path.join(check(given), *parts))
            shown = os.path.normpath(os.path.join(given, *parts))
            if name.endswith("/"):
                os.makedirs(target, exist_ok=True)
                return shown
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with self.open(member, pwd=pwd) as source, open_file(target, "wb") as file:
                shutil.copyfileobj(source, file)
            return shown

        def write(self, filename: Any, arcname: Any = None, *args: Any, **kwargs: Any) -> None:
            given = text_path(filename)
            with Checked(given) as real:
                super().write(real, given if arcname is None else arcname, *args, **kwargs)

    ZipFile.__module__ = __name__
    deny_class(zipfile.ZipFile)
    # What the module opens after all, it opens as a program would: an object that is a stream when `is_stream` looks at it may
    # have become a path when CPython does.
    vars(zipfile).update(open=open_file, io=make("io", {**_io(language), "open": open_file}))
    from_file: Any = zipfile.ZipInfo.__dict__["from_file"].__func__
    # Asked of what stands there: whoever put the library's back has it guarded again.
    if from_file.__module__ != __name__:

        def checked(cls: Any, /, filename: Any, arcname: Any = None, **options: Any) -> Any:
            path = text_path(filename)
            real = check(path)
            return from_file(cls, real if leads_up(path) else path, path if arcname is None else arcname, **options)

        setattr(zipfile.ZipInfo, "from_file", classmethod(checked))  # noqa: B010  # it tells of any file's size and time

    def is_zipfile(filename: Any) -> bool:
        return zipfile.is_zipfile(filename if is_stream(filename) else check(filename))

    def path() -> Any:
        """`zipfile.Path`, made when it is asked for."""
        if not made:
            build = language.gate.build
            pathlib, os_path = build("pathlib"), build("os").path
            given = {
                "ZipFile": ZipFile, "PurePosixPath": pathlib.PurePosixPath, "OuterPath": pathlib.Path, "join": os_path.join, "stat": build("stat"),
                "relpath": os_path.relpath, "TextIOWrapper": build("io").TextIOWrapper, "fnmatchcase": build("fnmatch").fnmatchcase,
            }  # fmt: skip
            kind = written(language, "zipfile", ZIP_PATH, "Path", given)
            for name in ("glob", "rglob", "match", "relative_to", "is_symlink"):
                if not hasattr(zipfile.Path, name):  # new in 3.12
                    delattr(kind, name)
            made.append(kind)
        return made[0]

    made: list[Any] = []
    shown = """BadZipFile BadZipfile LargeZipFile ZIP_BZIP2 ZIP_DEFLATED ZIP_LZMA ZIP_STORED ZipInfo error""".split()
    exports = {n: getattr(zipfile, n) for n in shown} | {"ZipFile": ZipFile, "is_zipfile": is_zipfile}
    return {"": make("zipfile", exports, zipfile.__doc__, {"Path": path})}


_PRAGMAS = ("temp_store_directory", "data_store_directory", "writable_schema")
"""Settings that a program may look at and not change."""


def _sqlite3(language: RestrictedLanguage) -> Exports:
    import sqlite3

    def authorize(action: int, first: Any, second: Any, database: Any, trigger: Any) -> int:
        # The first takes an address that it calls later; the second a library of native code. Whatever the library was built or configured to allow.
        if action == 31 and str(second).lower() in ("fts3_tokenizer", "load_extension"):  # SQLITE_FUNCTION
            return sqlite3.SQLITE_DENY
        # Of the whole process, and any folder; tables of the database's own machinery.
        if action == 19 and second is not None and str(first).lower() in _PRAGMAS:  # SQLITE_PRAGMA
            return sqlite3.SQLITE_DENY
        if action == 24:  # SQLITE_ATTACH opens a file
            if first in ("", ":memory:"):
                return sqlite3.SQLITE_OK
            # A name that is computed is not told; "file:" may be a URI, and so any path; what ".." behind a link leads to is exchanged after the look.
            if first is None or first.startswith("file:") or leads_up(first):
                return sqlite3.SQLITE_DENY
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
            super().__init__(name, timeout=timeout, detect_types=detect_types, isolation_level=isolation_level, check_same_thread=check_same_thread,
                             cached_statements=cached_statements, uri=uri, **more)  # fmt: skip
            super().set_authorizer(authorize)

        def __repr__(self) -> str:
            return f"<sqlite3.Connection object at {id(self):#x}>"

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from 3.12 on the module says that its version means nothing
        versions = {n: getattr(sqlite3, n) for n in ("version", "version_info") if hasattr(sqlite3, n)}
    return (
        {n: getattr(sqlite3, n) for n in shown if hasattr(sqlite3, n)}
        | versions
        | {
            "connect": connect,
            "Connection": Connection,
        }
    )


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "io": _io,
    "gzip": _gzip,
    "zipfile": _zipfile,
    "sqlite3": _sqlite3,
}
