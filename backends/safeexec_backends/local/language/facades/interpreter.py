"""``sys`` and ``builtins``: what a program may set of them, it sets for itself."""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import WriteRefused, as_facade, exact_name

from .facade import Facade, missing
from .streams import no_input

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_MAX_RECURSION = 10_000
"""Frames: more is not granted, whatever a program asks for. Of what recurses through C functions most survives this many, on a stack of 8 MB."""
_HOOKS = ("excepthook", "displayhook", "tracebacklimit", "ps1", "ps2")


def _sys(language: RestrictedLanguage) -> Exports:
    streams = language.streams
    outputs = streams.outputs

    def getter(name: str) -> Callable[[Any], Any]:
        return lambda self: streams.shown(name)

    def setter(name: str) -> Callable[[Any, Any], None]:
        return lambda self, value: streams.put(name, value)

    def exc_info() -> Any:
        return sys.exc_info()

    def setrecursionlimit(limit: int, /) -> None:
        # Programs ask for a million out of habit, and few go that deep: those get the RecursionError that there is for it.
        sys.setrecursionlimit(min(int(operator.index(limit)), _MAX_RECURSION))

    def nobody() -> None:
        """Nothing watches what runs."""

    def exit(status: Any = None, /) -> None:
        sys.exit(status)  # None and tuples become the exception's arguments

    def displayhook(value: object, /) -> None:
        if value is not None:
            outputs["stdout"].write(repr(value) + "\n")

    stdin = no_input()
    shown = """version version_info hexversion api_version maxsize maxunicode byteorder platform float_info int_info hash_info
        float_repr_style getsizeof getrecursionlimit getdefaultencoding getfilesystemencoding intern getrefcount
        exception getswitchinterval get_int_max_str_digits set_int_max_str_digits copyright abiflags getallocatedblocks
        getfilesystemencodeerrors is_finalizing platlibdir thread_info""".split()
    values: dict[str, Any] = {n: getattr(sys, n) for n in shown if hasattr(sys, n)}
    values |= {
        "exc_info": exc_info, "exit": exit, "setrecursionlimit": setrecursionlimit, "gettrace": nobody, "getprofile": nobody,
        "__stdout__": outputs["stdout"], "__stderr__": outputs["stderr"], "__stdin__": stdin,
        "flags": types.SimpleNamespace(
            optimize=0, debug=0, verbose=0, utf8_mode=1, dev_mode=False, interactive=0, inspect=0, ignore_environment=1, bytes_warning=0,
            isolated=1, warn_default_encoding=0, hash_randomization=1),
        "executable": "", "prefix": "", "base_prefix": "", "exec_prefix": "", "base_exec_prefix": "", "implementation": types.SimpleNamespace(name=sys.implementation.name,
        version=sys.implementation.version), "builtin_module_names": (), "warnoptions": [],
        "stdlib_module_names": sys.stdlib_module_names, "orig_argv": [], "dont_write_bytecode": True,
    }  # fmt: skip

    class Modules(dict):  # type: ignore[type-arg]
        """``sys.modules``: what the program imported; a module of its own that is taken out is run anew by its next import."""

        def __delitem__(self, key: Any) -> None:
            dict.__delitem__(self, key)
            language.gate.own.forget(key)

        def pop(self, key: Any, *default: Any) -> Any:
            found = dict.pop(self, key, *default)
            language.gate.own.forget(key)
            return found

    settings: dict[str, Any] = {"argv": [""], "path": [""], "stdin": stdin}

    def setting(name: str) -> property:
        return property(lambda self: settings[name], lambda self, value: settings.__setitem__(name, value))

    hooks: dict[str, Any] = {}

    def hook(name: str) -> property:
        def get(self: Any) -> Any:
            if name not in hooks:
                raise AttributeError(f"module 'sys' has no attribute {name!r}")
            return hooks[name]

        return property(get, lambda self, value: hooks.__setitem__(name, value))

    def excepthook(exctype: Any, value: Any, traceback: Any, /) -> None:
        """Print the exception."""
        language.gate.build("traceback").print_exception(exctype, value, traceback)

    def modules(self: Any) -> Any:
        return Modules(language.gate.loaded())

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": Facade.__module__,
        "__name__": "sys",
        "__all__": sorted([*(n for n in values if n[:1] != "_"), *settings, "stdout", "stderr", "modules"]),
        "__dir__": lambda self: list(type(self).__all__),
        "__setattr__": _set,
        "stdout": property(getter("stdout"), setter("stdout")),
        "stderr": property(getter("stderr"), setter("stderr")),
        "modules": property(modules),
        **{name: setting(name) for name in settings},
        # Of a prompt or a script that ends: here a step's error goes to the host.
        **{name: hook(name) for name in _HOOKS},
        "__excepthook__": staticmethod(excepthook),
        "__displayhook__": staticmethod(displayhook),
    }
    hooks |= {"excepthook": excepthook, "displayhook": displayhook}
    for name, value in values.items():
        body[name] = staticmethod(value) if isinstance(value, types.FunctionType) else value
    kind = type("module", (Facade,), body)
    as_facade(kind)
    return {"": object.__new__(kind)}


def _set(self: Any, name: str, value: Any) -> None:
    name = exact_name(name)
    if name in ("stdout", "stderr"):
        if not callable(getattr(value, "write", None)):
            raise TypeError(f"sys.{name} must have a write method")
        object.__setattr__(self, name, value)
    elif name in _HOOKS:
        object.__setattr__(self, name, value)
    elif name in ("argv", "path"):
        if type(value) is not list:  # argparse and the imports read it: what reads it shall not run the program's code
            raise TypeError(f"sys.{name} must be a list")
        object.__setattr__(self, name, value)
    elif name == "stdin":
        object.__setattr__(self, name, value)
    else:
        raise WriteRefused("the module 'sys' cannot be changed in this sandbox")


def _builtins(language: RestrictedLanguage) -> Exports:
    table = language.builtins
    known = {n for n in table if " " not in n and n != "__name__"}
    changeable = {n for n in known if n[:1] != "_"}

    class Builtins(Facade):
        """``builtins``, of which a program may exchange the public names, for itself: tests replace ``print`` and ``input``."""

        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            if name in known and name in table:
                return table[name]
            raise missing(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in changeable:
                raise WriteRefused(f"builtins.{name} cannot be changed in this sandbox")
            table[name] = value

        def __delattr__(self, name: str) -> None:
            if name not in changeable or name not in table:
                raise AttributeError(name)
            del table[name]

        def __dir__(self) -> list[str]:
            return sorted(n for n in known if n in table)

    type.__setattr__(Builtins, "__name__", "builtins")
    body: Any = Builtins
    as_facade(body)
    return {"": object.__new__(Builtins)}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"sys": _sys, "builtins": _builtins}
