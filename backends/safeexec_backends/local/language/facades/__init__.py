"""Modules as a program sees them: frozen selections of reviewed names, never the modules themselves."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from safeexec_backends.import_rule import nearest
from safeexec_backends.local.language import remembered
from safeexec_backends.local.language.denied import deny_type
from safeexec_backends.local.language.identity import (
    AttributeRefused,
    ModuleRefused,
    WriteRefused,
    exact_name,
)
from safeexec_backends.local.language.names import NEVER_BOUND, NOT_GLOBAL

from .facade import Facade, make
from .hints import HINTS, UNKNOWN
from .own import OwnModules

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage


class RealModule:
    """A real module that the user's policy allows: its public names, and of the modules among them only those it allows."""

    __slots__ = ("__weakref__", "_gate", "_module")

    def __init__(self, module: types.ModuleType, gate: Gate) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_gate", gate)

    def __getattr__(self, name: str) -> Any:
        module: types.ModuleType = object.__getattribute__(self, "_module")
        gate: Gate = object.__getattribute__(self, "_gate")
        if name[:1] == "_" and name not in ("__version__", "__file__", "__path__", "__all__"):
            if name == "__name__":
                return module.__name__
            raise AttributeRefused(f"'{module.__name__}.{name}' is not available in this sandbox")
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            return gate.real(value, f"{module.__name__}.{name}")
        gate.language.guards.check(value, f"{module.__name__}.{name}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise WriteRefused("a module cannot be changed in this sandbox")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __dir__(self) -> Iterable[str]:
        return [n for n in dir(object.__getattribute__(self, "_module")) if n[:1] != "_"]

    def __repr__(self) -> str:
        return f"<module {object.__getattribute__(self, '_module').__name__!r}>"


class Gate:
    """The one way to a module.

    :param allowed: patterns of the policy; None for every module that has a facade.
    """

    def __init__(self, language: RestrictedLanguage, allowed: tuple[str, ...] | None) -> None:
        self.language = language
        self._allowed = allowed
        self._made: dict[str, Any] = {}
        self._built: dict[str, Any] = {}
        self._real: dict[str, RealModule] = {}
        self._own: OwnModules | None = None

    # -- policy ------------------------------------------------------------------------------------------------------------

    def permits(self, name: str) -> bool:
        """Whether the policy lets a program import `name`; a parent of something permitted may be named on the way."""
        if self._allowed is None or name == "__future__":  # a word to the compiler
            return True
        return any(_covers(pattern, name) or pattern.startswith(name + ".") for pattern in self._allowed)

    @property
    def own(self) -> OwnModules:
        """The program's own modules."""
        if self._own is None:
            self._own = OwnModules(self.language)
        return self._own

    def loaded(self) -> dict[str, Any]:
        """The modules that the program imported."""
        return {**self._made, **self.own.loaded(), "__main__": self.language.main_module}

    def _refuse(self, name: str) -> Any:
        listed = sorted(builders()) if self._allowed is None else sorted(self._allowed)
        top = name.partition(".")[0]
        hint = HINTS.get(name) or HINTS.get(top) or (None if top in sys.stdlib_module_names else UNKNOWN)
        why = f"; {hint}" if hint else ""
        raise ModuleRefused(f"Import of {name!r} is not allowed; allowed: {nearest(name, listed)}{why}", name=name)

    # -- modules -----------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Any:
        """The facade, or the allowed real module, called `name`.

        :raises ModuleRefused: when the policy does not allow it.
        """
        name = str.__str__(name)
        found = self._made.get(name)
        if found is not None:
            return found
        if name[:1] == ".":
            raise ImportError("attempted relative import with no known parent package")
        if not name:
            raise ValueError("Empty module name")
        if name == "__main__":
            return self.language.main_module
        found = self.own.find(name)
        if found is not None:
            return found
        package = name.rpartition(".")[0]
        if package and package in self.own.loaded():
            raise ModuleNotFoundError(f"No module named {name!r}: the working directory has no such file", name=name)
        if not self.permits(name):
            return self._refuse(name)
        found = self._made[name] = self.build(name)
        return found

    def build(self, name: str) -> Any:
        """The facade called `name`, whatever the policy says, the same each time."""
        found = self._built.get(name)
        if found is None:
            found = self._built[name] = self._build(name)
        return found

    def add(self, name: str, facade: Facade) -> None:
        """A module of the session's own."""
        self._made[name] = facade

    def _build(self, name: str) -> Any:
        table = builders()
        below = sorted({n[len(name) + 1 :].partition(".")[0] for n in table if n.startswith(name + ".")})
        if name not in table and not below:
            if self._allowed is None:
                return self._refuse(name)
            return self._import_real(name)
        exports: dict[str, Any] = {}
        doc = None
        if name in table:
            exports = table[name](self.language)
            doc = getattr(importlib.import_module(name), "__doc__", None) if name != "builtins" else None
            remembered.forget()
        later: dict[str, Callable[[], Any]] = {}
        for child in below:
            if child not in exports and self.permits(f"{name}.{child}"):
                if is_borrowed(
                    f"{name}.{child}"
                ):  # run when it is asked for: that takes longer than all else in its package
                    later[child] = functools.partial(self.find, f"{name}.{child}")
                else:
                    exports[child] = self.find(f"{name}.{child}")
        special = exports.pop("", None)
        return special if special is not None else make(name, exports, doc, later)

    def _import_real(self, name: str) -> Any:
        module = importlib.import_module(name)
        remembered.forget()
        return self.real(module, name)

    def real(self, module: types.ModuleType, asked: str) -> Any:
        """How a program sees the real `module` that it came upon as `asked`."""
        name = module.__name__
        if name in builders() or any(n.startswith(name + ".") for n in builders()):
            return self.find(name)
        if not self._may_see(name):
            raise AttributeRefused(f"{asked!r} is not available in this sandbox")
        if name not in self._real:
            self._real[name] = RealModule(module, self)
        return self._real[name]

    def _may_see(self, name: str) -> bool:
        """Modules of the same package come with it; other packages do not."""
        top = name.partition(".")[0]
        return any(p == "*" or p.partition(".")[0] == top for p in self._allowed or ())

    # -- what the transformed statements call ------------------------------------------------------------------------------

    def whole(self, name: str) -> Any:
        """``import a.b as c``."""
        return self.find(name)

    def top(self, name: str) -> Any:
        """``import a.b``, which binds ``a``."""
        found = self.find(name)
        if isinstance(found, RealModule):
            self._show_below(name, found)
        return self.find(name.partition(".")[0])

    def _show_below(self, name: str, found: Any) -> None:
        """A real module of a package that is a facade, such as urllib.request at the policy's word: the package then has it."""
        package, _, child = name.rpartition(".")
        parent = self._made.get(package) if package else None
        if not isinstance(parent, Facade) and package:
            parent = self.find(package)
        if isinstance(parent, Facade) and child not in type(parent).__slots__:
            kind: Any = type(parent)
            exports: dict[str, Any] = {slot: getattr(parent, slot) for slot in kind.__slots__}
            self._made[package] = make(package, {**exports, child: found}, kind.__doc__)

    def member(self, module: str, name: str) -> Any:
        """``from module import name``. CPython's own would fall back to ``sys.modules[module.name]``."""
        found = self.find(module)
        below = f"{module}.{name}"
        try:
            # What every object has by such a name is no name of the module: its __setattr__ takes names that are not exact.
            return self.language.guards.read(found, name) if name[:2] == "__" else getattr(found, name)
        except AttributeRefused as refusal:
            if below in builders():
                return self.find(below)
            if below in HINTS:  # the library has imported it for itself
                return self._refuse(below)
            raise ModuleRefused(str(refusal), name=module) from None
        except AttributeError:
            pass
        inside = self.own.find(below)
        if inside is not None:
            return inside
        if below in builders() or (isinstance(found, RealModule) and self.permits(below)):
            try:
                return self.find(below)
            except ModuleNotFoundError:
                pass
        if below in HINTS:  # a module of the package that is left out: what to use instead
            return self._refuse(below)
        raise ImportError(f"cannot import name {name!r} from {module!r}", name=module) from None

    def every(self, module: str, depth: int = 1) -> None:
        """``from module import *``, into the namespace of the statement's frame, `depth` calls up."""
        found = self.find(module)
        names = getattr(found, "__all__", None)
        if names is None:
            names = [n for n in dir(found) if n[:1] != "_"]
        space = sys._getframe(depth).f_locals  # that of a module or of exec(): the namespace itself
        for name in list(names):
            # An exact str, of the kind that a statement could name: no other is looked at by the namespace's own rules.
            name = exact_name(name)
            if not name.isidentifier() or name in NEVER_BOUND or name in NOT_GLOBAL:
                raise ImportError(f"cannot import name {name!r} from {module!r}", name=module)
            space[name] = self.member(module, name)

    def function(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        """``__import__``."""
        # A number, or multiplied with it the dots are whatever the program says, and so is the name that is imported below.
        name = "." * int(operator.index(level)) + exact_name(name)
        if type(fromlist) is list and not fromlist and name in _INTERNAL:
            # CPython's C code imports what it needs through the builtins of whoever runs, in just this form, and takes the
            # module from sys.modules: datetime.strptime wants _strptime. The answer is for nobody.
            importlib.import_module(name)
            return None
        if not fromlist:
            return self.top(name)
        found = self.find(name)
        for item in tuple(fromlist):
            if item != "*":
                try:
                    self.member(name, exact_name(item))
                except ImportError as error:
                    if error.name != name:  # what a module of the program's imports itself
                        raise
        return found


deny_type(Gate)  # __import__.__self__


def _covers(pattern: str, name: str) -> bool:
    if pattern == "*" or pattern == name:
        return True
    if pattern.endswith(".*"):
        return name == pattern[:-2] or name.startswith(pattern[:-1])
    # A module named in the policy comes with the submodules whose facades belong to it, such as collections.abc.
    return name.startswith(pattern + ".") and name in builders()


_INTERNAL = frozenset(
    """_strptime time datetime _pydatetime re copyreg warnings encodings io _io locale json.decoder typing sqlite3 sqlite3.dbapi2
    sqlite3.dump unicodedata zoneinfo zoneinfo._common zoneinfo._tzpath collections collections.abc functools array traceback
    numbers decimal weakref types threading operator enum abc contextvars linecache asyncio asyncio.events asyncio.base_events
    asyncio.futures asyncio.tasks asyncio.coroutines asyncio.exceptions asyncio.base_futures asyncio.base_tasks
    string.templatelib annotationlib _collections_abc math random struct tokenize""".split()
)
"""What C code imports while a program runs."""

_GUARDED = """aio borrowed containers dataclasses_ doctests expat files guarded inspect_ interpreter logs machine pathlib_ programs system tempfile_ tracebacks warnings_""".split()
"""The files here that build modules of which something needs a guard."""

_builders: dict[str, Callable[[RestrictedLanguage], dict[str, Any]]] = {}


def builders() -> dict[str, Callable[[RestrictedLanguage], dict[str, Any]]]:
    """Facade name to the function that makes its exports; the standard library modules are imported only then."""
    if not _builders:
        from .table import NAMES

        # At once: a program that imports at the end of its stack would leave the reviewed names without what guards them.
        made = {name: _plain(name) for name in NAMES}
        for name in _GUARDED:
            made.update(importlib.import_module(f"{__name__}.{name}").BUILDERS)
        _builders.update(made)
    return _builders


def is_borrowed(name: str) -> bool:
    """Whether the module called `name` runs as if the program had written it."""
    from .borrowed import exists

    return exists(name)


def _plain(name: str) -> Callable[[RestrictedLanguage], dict[str, Any]]:
    return lambda language: reviewed(name)


def reviewed(name: str) -> dict[str, Any]:
    """The names of `table.NAMES` that this Python's module has."""
    from .table import NAMES

    module = importlib.import_module(name)
    return {n: getattr(module, n) for n in NAMES[name].split() if hasattr(module, n)}
