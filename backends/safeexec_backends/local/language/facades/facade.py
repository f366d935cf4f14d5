"""What a program has in the place of a module: reviewed names, frozen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from safeexec_backends.local.language.identity import AttributeRefused, WriteRefused, as_facade, is_guest_class

from .hints import NAMES


class FacadeType(type):
    """What facades are of. A method of the library that is called with a class sets attributes of that: not of these."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Facade:  # types.ModuleType
            raise TypeError(
                "modules cannot be made in this sandbox; write a file and import it, or use types.SimpleNamespace"
            )
        return super().__call__(*args, **kwargs)

    def __setattr__(cls, name: str, value: Any) -> None:
        if not is_guest_class(cls):
            raise WriteRefused("a module cannot be changed in this sandbox")
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        if not is_guest_class(cls):
            raise WriteRefused("a module cannot be changed in this sandbox")
        super().__delattr__(name)


class Facade(metaclass=FacadeType):
    """A module's reviewed names. It has no ``__dict__``: there is nothing that a helper of the standard library could write to."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise WriteRefused(f"the module {_name(self)!r} cannot be changed in this sandbox")

    def __delattr__(self, name: str) -> None:
        raise WriteRefused(f"the module {_name(self)!r} cannot be changed in this sandbox")

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

    def __dir__(self) -> Iterable[str]:
        return sorted(type(self).__slots__)

    def __repr__(self) -> str:
        return f"<module {_name(self)!r}>"

    def __copy__(self) -> Facade:
        return self

    def __deepcopy__(self, memo: object) -> Facade:
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("cannot pickle 'module' object")


def _name(facade: Facade) -> str:
    return str(type(facade).__dict__.get("__name__", "module"))


def missing(facade: Facade, name: str) -> AttributeError:
    """The error for a name that `facade` does not have: left out, or not there in the real module either."""
    module = _name(facade)
    if name[:2] != "__" and hasattr(sys.modules.get(module), name):
        hint = NAMES.get(f"{module}.{name}")
        return AttributeRefused(f"'{module}.{name}' is not available in this sandbox{f'; {hint}' if hint else ''}")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def make(
    name: str, exports: Mapping[str, Any], doc: str | None = None, later: Mapping[str, Callable[[], Any]] | None = None
) -> Facade:
    """A facade that shows `exports`, and what `later` gives for a name when it is asked for."""
    names = [n for n in exports if not (n[:2] == "__" and n[-2:] == "__")]
    body: dict[str, Any] = {
        "__slots__": tuple(names),
        "__module__": __name__,
        "__name__": name,
        "__doc__": doc,
        "__all__": sorted(n for n in names if n[:1] != "_"),
    }
    body.update({n: v for n, v in exports.items() if n not in names})
    body.update({n: _late(get) for n, get in (later or {}).items() if n not in body})
    kind: Any = FacadeType("module", (Facade,), body)
    facade: Facade = object.__new__(kind)
    for key in names:
        object.__setattr__(facade, key, exports[key])
    as_facade(kind)
    return facade


def _late(get: Callable[[], Any]) -> property:
    return property(lambda self: get())
