"""Small stand-ins for objects that are not shown themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from types import CellType, CodeType
from typing import Any, TypeVar

from safeexec_backends.local.language.identity import WriteRefused, as_facade, class_name, exact_name


class View:
    """Facts that the sandbox took of something that is not shown itself. A program makes and changes none: what reads them believes them, the name
    of a file among them.
    """

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        raise TypeError(f"cannot create {type(self).__name__!r} instances")

    def __setattr__(self, name: str, value: Any) -> None:
        raise WriteRefused("these facts cannot be changed in this sandbox")

    def __delattr__(self, name: str) -> None:
        raise WriteRefused("these facts cannot be changed in this sandbox")


class CodeView(View):
    """The harmless facts of a function's code object."""

    __slots__ = _SHOWN = (
        "co_argcount", "co_filename", "co_firstlineno", "co_flags", "co_freevars", "co_kwonlyargcount", "co_name",
        "co_nlocals", "co_posonlyargcount", "co_stacksize", "co_varnames",
    )  # fmt: skip


class CellView(View):
    """One variable of a function's closure, to be read only."""

    __slots__ = ("cell_contents",)
    cell_contents: Any

    def __repr__(self) -> str:
        try:
            held = self.cell_contents
        except AttributeError:
            return f"<cell at {id(self):#x}: empty>"
        return f"<cell at {id(self):#x}: {class_name(type(held))} object at {id(held):#x}>"


V = TypeVar("V", bound=View)


def facts(kind: type[V], **values: Any) -> V:
    """A view with these facts: the one way to make any."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def code_view(code: CodeType) -> CodeView:
    """The facts of `code`."""
    return facts(CodeView, **{name: getattr(code, name) for name in CodeView._SHOWN})


def cell_view(name: str, cell: CellType) -> CellView:
    """What the variable `name` holds now."""
    # ``__class__`` and ``__classdict__`` are the compiler's, and what has a space in its name the guards'.
    if name[:2] != "__" and " " not in name:
        try:
            return facts(CellView, cell_contents=cell.cell_contents)
        except ValueError:
            pass  # not bound yet
    return facts(CellView)


def class_view(namespace: dict[str, Any]) -> MutableMapping[str, Any]:
    """``locals()`` in a class's body: what is put into it becomes an attribute of the class. Names with double underscores are for statements, which
    are looked at.
    """
    return globals_view(namespace, lambda key: key[:2] == "__" == key[-2:])


def globals_view(
    namespace: dict[str, Any], fixed: Callable[[str], bool] = lambda key: key == "__name__"
) -> MutableMapping[str, Any]:
    """``globals()``: reads and writes `namespace`, except for the names that are the sandbox's, and writes none that is `fixed`.

    The dictionary itself is held in the methods' closures, which nothing shows.
    """

    class Globals(MutableMapping[str, Any]):
        __slots__ = ()

        def __getitem__(self, key: Any) -> Any:
            # An exact str only: an object with a hash and an == of its own could pass for "__builtins__".
            if type(key) is not str or _ours(key):
                raise KeyError(key)
            return namespace[key]

        def __setitem__(self, key: Any, value: Any) -> None:
            key = exact_name(key)
            if _ours(key) or fixed(key):
                raise WriteRefused(f"the name {key!r} belongs to the sandbox")
            namespace[key] = value

        def __delitem__(self, key: Any) -> None:
            key = exact_name(key)
            if _ours(key) or fixed(key):
                raise WriteRefused(f"the name {key!r} belongs to the sandbox")
            del namespace[key]

        def __iter__(self) -> Iterator[str]:
            return iter([k for k in list(namespace) if not _ours(k)])

        def __len__(self) -> int:
            return sum(1 for _ in self)

        def copy(self) -> dict[str, Any]:
            return dict(self)

        def __repr__(self) -> str:
            return repr(dict(self))

        def __or__(self, other: Any) -> dict[str, Any]:
            return dict(self) | dict(other)

    return Globals()


def main_module(language: Any) -> Any:
    """``__main__``: the session's own variables."""
    return space_module(language, lambda: language.main, "__main__")


def space_module(language: Any, namespace: Callable[[], dict[str, Any]], called: str) -> Any:
    """A namespace of the program as a module, through the same rules as ``globals()``."""
    from .facade import Facade

    class Space(Facade):
        __slots__ = ()
        __doc__ = property(lambda self: namespace().get("__doc__"))

        def __getattr__(self, name: str) -> Any:
            space = namespace()
            try:
                return language.view(space)[name]
            except KeyError:
                pass
            if name[:2] != "__" and "__getattr__" in space:
                return space["__getattr__"](name)
            raise AttributeError(f"module {called!r} has no attribute {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            language.view(namespace())[name] = value

        def __delattr__(self, name: str) -> None:
            try:
                del language.view(namespace())[name]
            except KeyError:
                raise AttributeError(name) from None

        def __dir__(self) -> list[str]:
            # Whoever goes through the names of a module reads each, as unittest does, and the interpreter adds some of its own: __warningregistry__.
            names, absent = sorted(map(str, language.view(namespace()))), object()
            return [n for n in names if n[:2] != "__" or language.guards.readable(self, n, absent) is not absent]

        def __repr__(self) -> str:
            return f"<module {called!r}>"

    type.__setattr__(Space, "__name__", "module")
    as_facade(Space)
    return object.__new__(Space)


def _ours(key: Any) -> bool:
    return type(key) is str and (key == "__builtins__" or " " in key)
