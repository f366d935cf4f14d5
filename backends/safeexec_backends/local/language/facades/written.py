"""Parts of modules that are written here and run as if the program had written them: they can do nothing that the program could not.

For what would have to be reviewed line by line as the library has it, since it sets attributes and keeps what it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import own_module

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

DEPRECATED = '''
class deprecated:
    """Mark a class, a function or an overload as deprecated (PEP 702): using it warns."""

    def __init__(self, message, /, *, category=DeprecationWarning, stacklevel=1):
        if not isinstance(message, str):
            raise TypeError(f"Expected an object of type str for 'message', not {type(message).__name__!r}")
        self.message = message
        self.category = category
        self.stacklevel = stacklevel

    def __call__(self, arg, /):
        message, category, level = self.message, self.category, self.stacklevel
        if category is None:
            arg.__deprecated__ = message
            return arg

        def tell(above=1):
            warn(message, category=category, stacklevel=level + above)

        if isinstance(arg, type):
            make = arg.__new__

            def __new__(cls, /, *args, **kwargs):
                if cls is arg:
                    tell(2)
                if make is not object.__new__:
                    return make(cls, *args, **kwargs)
                if arg.__init__ is object.__init__ and (args or kwargs):
                    raise TypeError(f"{cls.__name__}() takes no arguments")
                return make(cls)

            arg.__new__ = staticmethod(__new__)
            below = arg.__init_subclass__
            own = getattr(below, "__func__", None)

            def __init_subclass__(cls, *args, **kwargs):
                tell(2)
                return below(*args, **kwargs) if own is None else own(cls, *args, **kwargs)

            arg.__init_subclass__ = classmethod(__init_subclass__)
            arg.__deprecated__ = __new__.__deprecated__ = __init_subclass__.__deprecated__ = message
            return arg
        if not callable(arg):
            raise TypeError(f"@deprecated decorator with non-None category must be applied to a class or callable, not {arg!r}")

        if iscoroutinefunction(arg):

            @wraps(arg)
            async def wrapper(*args, **kwargs):
                tell(2)
                return await arg(*args, **kwargs)

        else:

            @wraps(arg)
            def wrapper(*args, **kwargs):
                tell(2)
                return arg(*args, **kwargs)

        arg.__deprecated__ = wrapper.__deprecated__ = message
        return wrapper
'''

ZIP_PATH = '''
class Path:
    """A path in an archive, with as much of pathlib.Path as makes sense there."""

    def __init__(self, root, at=""):
        self.root = root if isinstance(root, ZipFile) else ZipFile(root)
        self.at = at

    def __eq__(self, other):
        if self.__class__ is not other.__class__:
            return NotImplemented
        return (self.root, self.at) == (other.root, other.at)

    def __hash__(self):
        return hash((self.root, self.at))

    def _names(self):
        names = self.root.namelist()
        known = dict.fromkeys(names)
        for name in names:
            parts = name.rstrip("/").split("/")
            for end in range(len(parts) - 1, 0, -1):
                known.setdefault("/".join(parts[:end]) + "/")
        return known

    def _next(self, at):
        return self.__class__(self.root, at)

    def _pure(self):
        return PurePosixPath(self.at)

    def open(self, mode="r", *args, pwd=None, **kwargs):
        if self.is_dir():
            raise IsADirectoryError(self)
        kind = mode[0]
        if kind == "r" and not self.exists():
            raise FileNotFoundError(self)
        stream = self.root.open(self.at, kind, pwd=pwd)
        if "b" in mode:
            if args or kwargs:
                raise ValueError("encoding args invalid for binary operation")
            return stream
        return TextIOWrapper(stream, *(args or ("utf-8",) if "encoding" not in kwargs else ()), **kwargs)

    @property
    def name(self):
        return self._pure().name or self.filename.name

    @property
    def suffix(self):
        return self._pure().suffix or self.filename.suffix

    @property
    def suffixes(self):
        return self._pure().suffixes or self.filename.suffixes

    @property
    def stem(self):
        return self._pure().stem or self.filename.stem

    @property
    def filename(self):
        return OuterPath(str(self.root.filename)).joinpath(self.at)

    @property
    def parent(self):
        if not self.at:
            return self.filename.parent
        above = self.at.rstrip("/").rpartition("/")[0]
        return self._next(above + "/" if above else "")

    def read_text(self, *args, **kwargs):
        with self.open("r", *args, **kwargs) as stream:
            return stream.read()

    def read_bytes(self):
        with self.open("rb") as stream:
            return stream.read()

    def is_dir(self):
        return not self.at or self.at.endswith("/")

    def is_file(self):
        return self.exists() and not self.is_dir()

    def is_symlink(self):
        return stat.S_ISLNK(self.root.getinfo(self.at).external_attr >> 16)

    def exists(self):
        return self.at in self._names()

    def iterdir(self):
        if not self.is_dir():
            raise ValueError("Can't listdir a file")
        return iter([self._next(n) for n in self._names() if n != self.at and n.rstrip("/").rpartition("/")[0] == self.at.rstrip("/")])

    def joinpath(self, *others):
        at = join(self.at, *[str(other) for other in others])
        known = self._names()
        return self._next(at + "/" if at not in known and at + "/" in known else at)

    __truediv__ = joinpath

    def match(self, pattern):
        return self._pure().match(pattern)

    def glob(self, pattern):
        if not pattern:
            raise ValueError(f"Unacceptable pattern: {pattern!r}")
        below = pattern.split("/")
        base = self.at
        return iter([self._next(n) for n in self._names() if n.startswith(base) and n != base and _fits(n[len(base):].rstrip("/").split("/"), below)])

    def rglob(self, pattern):
        return self.glob(f"**/{pattern}")

    def relative_to(self, other, *extra):
        return relpath(str(self), str(other.joinpath(*extra)))

    def __str__(self):
        return join(str(self.root.filename), self.at)

    def __repr__(self):
        return f"{self.__class__.__name__}({self.root.filename!r}, {self.at!r})"


def _fits(parts, pattern):
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[n:], pattern[1:]) for n in range(1, len(parts) + 1))  # as the library's: at least one folder
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
'''


def written(language: RestrictedLanguage, module: str, text: str, name: str, given: dict[str, Any]) -> Any:
    """What `text` calls `name`, run with the program's builtins and what is `given`."""
    space = {"__name__": own_module(module), "__builtins__": language.builtins, **given}
    exec(language.compile_one(text, f"<frozen {module}>", "exec"), space)
    return space[name]
