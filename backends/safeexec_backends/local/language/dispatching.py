"""``functools.singledispatch``, which orders classes without asking them.

It looks classes up in sets and lists, and goes through all that inherit from ``object`` on the way: the metaclass of a program's class, which says what the
class equals, would be shown the classes of code, frames and modules, and the real ones behind the facades.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .denied import is_denied
from .identity import class_mro, is_class

_bases = type.__dict__["__bases__"].__get__
_abstract = type.__dict__["__abstractmethods__"].__get__


class _Known:
    """Stands for a class while classes are ordered: equal to itself alone, whatever the class says."""

    __slots__ = ("_table", "kind")

    def __init__(self, kind: type, table: dict[int, _Known]) -> None:
        self.kind = kind
        self._table = table

    def _others(self, kinds: Any) -> tuple[_Known, ...]:
        return tuple(known(kind, self._table) for kind in kinds)

    @property
    def __mro__(self) -> tuple[_Known, ...]:
        return self._others(class_mro(self.kind))

    @property
    def __bases__(self) -> tuple[_Known, ...]:
        return self._others(_bases(self.kind))

    @property
    def __abstractmethods__(self) -> Any:
        return _abstract(self.kind)  # raises AttributeError where there are none

    def __subclasses__(self) -> list[_Known]:
        return list(self._others(type.__subclasses__(self.kind)))


def known(kind: type, table: dict[int, _Known]) -> _Known:
    """What stands for `kind`, the same each time with the same `table`."""
    found = table.get(id(kind))
    if found is None:
        found = table[id(kind)] = _Known(kind, table)
    return found


def _real(kind: Any) -> Any:
    return kind.kind if type(kind) is _Known else kind


def _issubclass(kind: Any, other: Any) -> bool:
    kind = _real(kind)
    # The program's classes are asked whether each base of a class is theirs: of a facade's, one that is never shown.
    return False if is_denied(kind) else issubclass(kind, _real(other))


def install() -> None:
    """Put it in; `patches` does, once."""
    module: Any = functools
    order: Callable[[Any, Any], list[Any]] = module._compose_mro

    def _compose_mro(kind: type, kinds: Any) -> list[type]:
        table: dict[int, _Known] = {}
        # A class may be registered that only says that it is one.
        others = [known(other, table) for other in list(kinds) if is_class(other)]
        return [found.kind for found in order(known(kind, table), others) if not is_denied(found.kind)]

    def _find_impl(kind: type, registry: Any) -> Any:
        made = {id(key): function for key, function in list(registry.items())}
        own = set(map(id, class_mro(kind)))
        match: Any = None
        for other in _compose_mro(kind, registry):
            if match is None:
                if id(other) in made:
                    match = other
                continue
            apart = id(other) in made and id(other) not in own and id(match) not in own
            if apart and not _issubclass(match, other):
                raise RuntimeError(f"Ambiguous dispatch: {match} or {other}")
            break
        return made.get(id(match))

    vars(module).update(issubclass=_issubclass, _compose_mro=_compose_mro, _find_impl=_find_impl)
