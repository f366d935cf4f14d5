"""What kind of stream a class is, told by identity."""

from __future__ import annotations

import abc
import io
from typing import Any

from safeexec_backends.local.language.identity import class_mro, is_guest_class

_NAMES = ("IOBase", "RawIOBase", "BufferedIOBase", "TextIOBase")
_NATIVE: dict[int, type] = {id(getattr(io, name)): kind for name in _NAMES
                            for kind in reversed(class_mro(getattr(io, name))) if kind.__module__ == "_io"}  # fmt: skip


class Streams(abc.ABCMeta):
    """The metaclass of ``io.IOBase`` and its kind. ABCMeta looks a class up among those that it knows, the raw files among them, and so shows
    them to a program's metaclass; this one goes by identity."""

    def __subclasscheck__(cls, kind: Any) -> bool:
        if is_guest_class(cls):
            return super().__subclasscheck__(kind)
        native = _NATIVE.get(id(cls))
        known = _registered.get(id(cls), [])
        return any(base is cls or base is native or any(base is k for k in known) for base in class_mro(kind))

    def __instancecheck__(cls, value: Any) -> bool:
        return issubclass(type(value), cls)

    def register(cls, kind: Any) -> Any:
        if is_guest_class(cls):
            return super().register(kind)
        _registered.setdefault(id(cls), []).append(kind)
        return kind


_registered: dict[int, list[Any]] = {}


def stands_for(kind: type, *names: str) -> None:
    """Take `kind` for one of the base classes of `io` that `names` says, as what it stands for is."""
    for name in names:
        _registered.setdefault(id(getattr(io, name)), []).append(kind)


def by_identity() -> None:
    """Have the base classes of `io` decide so, in the whole process."""
    for name in _NAMES:
        kind: Any = getattr(io, name)
        # Nor may there be anything in the tables: `ABCMeta` has the method that looks there, and takes any of its classes.
        kind._abc_registry_clear()
        kind._abc_caches_clear()
        kind.__class__ = Streams
