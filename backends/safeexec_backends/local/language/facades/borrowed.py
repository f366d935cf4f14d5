"""Modules of the standard library that run as if the program had written them.

Their source goes through the same transformer as the program's, with the same builtins and the facades for their imports. So they can do
nothing that the program could not do itself, and there is nothing in them to review. That is slower than a facade of the real module, and
right for modules that read and set attributes by name, open files and build classes all over: test frameworks, shells, archives, mail.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language import scopes, tokens, transformer
from safeexec_backends.local.language.identity import as_facade, exact_name, own_module
from safeexec_backends.local.language.names import NEVER_BOUND, NOT_GLOBAL

from . import builders
from .facade import Facade, make, missing

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]

NAMES = frozenset(
    """
    cmd optparse shlex tarfile wave mimetypes filecmp gettext quopri fileinput token
    unittest unittest.async_case unittest.case unittest.loader unittest.main unittest.mock unittest.result unittest.runner
    unittest.signals unittest.suite unittest.util unittest._log
    email email.base64mime email.charset email.contentmanager email.encoders email.errors email.feedparser email.generator
    email.header email.headerregistry email.iterators email.message email.mime email.mime.application email.mime.audio
    email.mime.base email.mime.image email.mime.message email.mime.multipart email.mime.nonmultipart email.mime.text
    email.parser email.policy email.quoprimime email.utils email._encoded_words email._header_value_parser email._parseaddr
    email._policybase
    bz2 lzma _compression compression compression._common compression._common._streams http.cookies logging.config logging.handlers
    xml.dom xml.dom.NodeFilter xml.dom.domreg xml.dom.expatbuilder xml.dom.minicompat xml.dom.minidom xml.dom.pulldom xml.dom.xmlbuilder
    xml.sax xml.sax._exceptions xml.sax.expatreader xml.sax.handler xml.sax.saxutils xml.sax.xmlreader
    """.split()
)
"""Every module that is run this way."""


def _refused(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise OSError(f"{name} is not available in this sandbox")

    return call


def _pkgutil(language: RestrictedLanguage) -> Exports:
    def resolve_name(name: Any) -> Any:
        """As `pkgutil.resolve_name`, by what the program may import and read."""
        name = exact_name(name)
        path, colon, rest = name.partition(":")
        parts = path.split(".")
        found = language.gate.find(parts[0])
        for place, part in enumerate(parts[1:], 2):
            try:
                found = language.guards.read(found, part)
            except AttributeError:
                if colon or not isinstance(found, Facade):
                    raise
                # By the gate, which asks the policy: it shows no real module that merely shares a package with what the policy names.
                found = language.gate.find(".".join(parts[:place]))
        for part in rest.split(".") if rest else ():
            found = language.guards.read(found, part)
        return found

    return {"resolve_name": resolve_name}


def _asyncio(language: RestrictedLanguage) -> Exports:
    import asyncio

    whole = language.gate.build("asyncio")
    mark = getattr(asyncio.coroutines, "_is_coroutine", None)  # an object that says nothing
    return {n: getattr(whole, n) for n in dir(whole)} | {
        "coroutines": make("asyncio.coroutines", {} if mark is None else {"_is_coroutine": mark})
    }


def _native(name: str, *private: str) -> Callable[[RestrictedLanguage], Exports]:
    """A module in C, for the one in Python over it: it works on bytes alone."""

    def build(language: RestrictedLanguage) -> Exports:
        module = importlib.import_module(name)
        return {n: getattr(module, n) for n in (*(n for n in dir(module) if n[:1] != "_"), *private)}

    return build


def _refused_class(name: str) -> type:
    return type(name, (), {"__init__": _refused(name), "__module__": __name__})


_FILE_HANDLER = """
class FileHandler(logging.FileHandler):
    def _open(self):
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors)
"""
"""The base of handlers that open their file again: what a class of the sandbox's own calls by such a name no other reads."""


def _logging(language: RestrictedLanguage) -> Exports:
    import logging

    whole = language.gate.build("logging")
    inner = "_acquireLock _releaseLock _lock _handlers _handlerList _checkLevel _levelToName PlaceHolder".split()
    exports = {n: getattr(whole, n) for n in dir(whole)} | {
        n: getattr(logging, n) for n in inner if hasattr(logging, n)
    }
    space = {"__name__": own_module("logging"), "__builtins__": language.builtins, "logging": whole}
    exec(language.compile_one(_FILE_HANDLER, "<frozen logging>", "exec"), space)
    # The file that fileConfig reads may name what the real module has imported, as far as the program may import it.
    named = {n: language.gate.build(n) for n in ("sys", "os") if language.gate.permits(n)}
    return exports | {"FileHandler": space["FileHandler"], **named}


_SUBSTITUTES: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "signal": lambda language: {
        "SIGINT": 2, "SIG_DFL": 0, "default_int_handler": _refused("signal"), "getsignal": lambda number: None,
        "signal": _refused("signal"),
    },
    "socket": lambda language: {"getfqdn": lambda name="": "localhost"},
    "socketserver": lambda language: {n: _refused_class(n) for n in ("ThreadingTCPServer", "StreamRequestHandler")},
    "_bz2": _native("_bz2"),
    "_lzma": _native("_lzma", "_encode_filter_properties", "_decode_filter_properties"),
    "pickle": lambda language: {n: _refused("pickle") for n in ("dumps", "loads")},
    "urllib.request": lambda language: {"urlopen": _refused("urllib.request.urlopen")},
    "logging": _logging,
    "pkgutil": _pkgutil,
    "asyncio": _asyncio,
}  # fmt: skip
"""What libraries import at their top and hardly use. Programs do not see these."""

_ALIASES = {"posixpath": "os.path", "_io": "io", "_weakref": "weakref"}

_AFTER: Mapping[str, str] = {
    # CPython's own finds the frames to leave out by their globals; here the library's frames are left out anyway.
    "unittest.result": """
def _exc_info_to_string(self, err, test):
    lines = list(traceback.format_exception(*err))
    if self.buffer:
        for stream, template in ((sys.stdout, STDOUT_LINE), (sys.stderr, STDERR_LINE)):
            text = stream.getvalue()
            if text:
                lines.append(template % (text if text.endswith("\\n") else text + "\\n"))
    return "".join(lines)
TestResult._exc_info_to_string = _exc_info_to_string
""",
    # CPython's own wraps bytes in a class that gives itself another's __class__.
    "xml.sax.saxutils": """
def _gettextwriter(out, encoding):
    import sys
    if out is None:
        return sys.stdout
    if out is sys.stdout or out is sys.stderr or isinstance(out, io.TextIOBase):
        return out
    class _Writer:
        def __init__(self):
            self._encode = codecs.getincrementalencoder(encoding)("xmlcharrefreplace").encode
        def write(self, text):
            out.write(self._encode(text))
        def flush(self):
            pass
    return _Writer()
""",
}
"""What is run after a module, in its namespace. Functions that it defines are left out of the module."""

_LIBRARY = os.path.dirname(os.__file__)
_codes: dict[str, CodeType] = {}


def _path(name: str) -> str:
    folder = os.path.join(_LIBRARY, *name.split("."))
    return os.path.join(folder, "__init__.py") if os.path.isdir(folder) else folder + ".py"


def exists(name: str) -> bool:
    """Whether this Python has the module."""
    return name in NAMES and os.path.isfile(_path(name))


def code_of(name: str) -> CodeType:
    """The transformed code of a module, without its guards: it is the same in every session."""
    code = _codes.get(name)
    if code is None:
        with open(_path(name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "'__main__'" in ast.unparse(n.test))]
        replaced = {n.name for n in ast.parse(_AFTER.get(name, "")).body if isinstance(n, ast.FunctionDef)}
        tree.body = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name in replaced)]
        made = transformer.Transformer(scopes.attribute_names(tree)).visit(tree)
        # As the interpreter's own frozen modules: tracebacks leave the lines of "<frozen …>" out.
        code = _codes[name] = compile(made, f"<frozen {name}>", "exec", dont_inherit=True)
    return code


_COMMON = ("unittest",)


def get_ready(name: str) -> bool:
    """Transform one more module of the package `name` for all sessions to come, if programs often want it; whether there was one left."""
    wanted = (n for n in sorted(NAMES) if n.partition(".")[0] == name and n not in _codes and exists(n))
    module = next(wanted, None) if name in _COMMON else None
    if module is not None:
        code_of(module)
    return module is not None


class Library:
    """The library modules of one session."""

    def __init__(self, language: RestrictedLanguage) -> None:
        self._language = language
        self._shown: dict[str, Any] = {}
        self._spaces: dict[int, dict[str, Any]] = {}  # the namespace behind each, by its id

    def load(self, name: str) -> Any:
        """The module called `name`, as the program sees it."""
        if name in self._shown:
            return self._shown[name]
        parent, _, child = name.rpartition(".")
        inside = exists(parent)  # of logging and xml the package itself is a facade
        if inside:
            above = self.load(parent)
            if name in self._shown:  # its parent imports it
                return self._shown[name]
        package = name if os.path.basename(_path(name)) == "__init__.py" else parent
        space: dict[str, Any] = {
            "__name__": own_module(name),
            "__doc__": None,
            "__package__": package,
            "__builtins__": self._language.builtins,
        }
        if package == name:
            space["__path__"] = []
        shown = self._shown[name] = _shown(name, space, functools.partial(self._below, name))
        self._spaces[id(shown)] = space
        if inside:
            self._spaces[id(above)][child] = shown
        try:
            exec(tokens.bind(code_of(name), self._constants(package)), space)
            if name in _AFTER:
                exec(self._language.compile_one(_AFTER[name], f"<frozen {name}>", "exec"), space)
        except BaseException:
            self._spaces.pop(id(self._shown.pop(name)))
            raise
        return shown

    def _below(self, package: str) -> dict[str, Callable[[], Any]]:
        """The modules below a package that the program may import."""
        inside = [n for n in NAMES if n.rpartition(".")[0] == package and exists(n) and self._language.gate.permits(n)]
        return {n.rpartition(".")[2]: functools.partial(self._language.gate.find, n) for n in inside}

    def _constants(self, package: str) -> dict[str, Any]:
        """The guards for the code of a module in `package`: the program's, but for what it imports."""

        def find(name: str) -> Any:
            if name in _SUBSTITUTES:
                if name not in self._shown:
                    below = sorted(n for n in NAMES if n.rpartition(".")[0] == name and exists(n))
                    later = {n.rpartition(".")[2]: functools.partial(self.load, n) for n in below}
                    # Not called as the module is: of its own package's modules a library shows those that it imports.
                    self._shown[name] = make(f"<{name}>", _SUBSTITUTES[name](self._language), later=later)
                return self._shown[name]
            if exists(name):
                return self.load(name)
            name = _ALIASES.get(name, name)
            # Whatever the policy says of the program's own imports: it is not shown to the program.
            if name in builders() or any(n.startswith(name + ".") for n in builders()):
                return self._language.gate.build(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        def absolute(name: str) -> str:
            if name[:1] != ".":
                return name
            level = len(name) - len(name.lstrip("."))
            parts = package.split(".")
            return ".".join([*parts[: len(parts) - level + 1], *([name[level:]] if name[level:] else [])])

        def top(name: str) -> Any:
            find(name)
            return find(name.partition(".")[0])

        def member(module: str, name: str) -> Any:
            module = absolute(module)
            found = find(module)
            space = self._spaces.get(id(found))
            if space is not None:
                if name in space:
                    return space[name]
            elif hasattr(found, name):
                return getattr(found, name)
            below = f"{module}.{name}"
            if below in _SUBSTITUTES or exists(below) or below in builders():
                return find(below)
            raise ImportError(f"cannot import name {name!r} from {module!r}", name=module)

        def every(module: str) -> None:
            names = [exact_name(n) for n in find(absolute(module)).__all__]
            if any(not n.isidentifier() or n in NEVER_BOUND or n in NOT_GLOBAL for n in names):
                raise ImportError(f"cannot import all from {module!r}", name=module)
            sys._getframe(1).f_locals.update({n: member(module, n) for n in names})

        return {
            **self._language.constants,
            tokens.token("import"): find,
            tokens.token("import_top"): top,
            tokens.token("import_from"): member,
            tokens.token("import_all"): every,
        }


def _shown(name: str, space: dict[str, Any], below: Callable[[], dict[str, Callable[[], Any]]]) -> Facade:
    package = name.partition(".")[0]

    def lookup(self: Facade, key: str) -> Any:
        value = space.get(key, space)
        if value is space and "__getattr__" in space and key[:2] != "__":
            value = space["__getattr__"](key)
        if value is space and key in below():
            return below()[key]()
        if value is space or key[:2] == "__":
            raise missing(self, key)
        if isinstance(value, Facade) and _package(value) != package:
            raise missing(self, key)  # what the library imports is not the library's
        return value

    def names(self: Facade) -> list[str]:
        own = {k for k, v in space.items() if k[:2] != "__" and not (isinstance(v, Facade) and _package(v) != package)}
        return sorted(own | {n for n in below() if n[:1] != "_"})

    body = {
        "__slots__": (), "__module__": Facade.__module__, "__name__": name, "__getattr__": lookup, "__dir__": names,
        "__all__": property(lambda self: space.get("__all__") or [n for n in space if n[:1] != "_" and n in names(self)]),
    }  # fmt: skip
    kind = type("module", (Facade,), body)
    as_facade(kind)
    shown: Facade = object.__new__(kind)
    return shown


def _package(facade: Facade) -> str:
    return str(type(facade).__dict__.get("__name__", "")).partition(".")[0]


def _loader(name: str) -> Callable[[RestrictedLanguage], Exports]:
    return lambda language: {"": language.library.load(name)}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {n: _loader(n) for n in sorted(NAMES) if exists(n)}
