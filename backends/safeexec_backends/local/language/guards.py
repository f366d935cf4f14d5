"""What compiled programs call at run time: reading, writing, matching."""

from __future__ import annotations

from typing import Any

from . import names
from .identity import (
    AttributeRefused,
    class_flags,
    class_mro,
    class_name,
    is_class,
    is_plain,
)
from .writing import Writing


class Guards(Writing):
    """The guards of one session.

    :param third_party: top-level names of real packages that the user allowed; their objects may be written to.
    """

    def __init__(self, third_party: frozenset[str] = frozenset()) -> None:
        super().__init__(third_party)
        self._patterns: dict[tuple[int, tuple[str, ...] | None, bool], tuple[type, type]] = {}

    def match(self, kind: Any, positions: int, listed: tuple[str, ...]) -> Any:
        """The class of a pattern, or one that stands for it.

        :param positions: how many positional sub-patterns there are; ``__match_args__`` names their attributes.
        :param listed: keyword names that need a look.
        :raises AttributeRefused: when an attribute is named that a program may not read.
        """
        if not is_class(kind):
            return kind  # CPython's TypeError
        named: Any = ()
        if positions:  # also of a class that seems to be the library's: a program may call its own by any name
            named = getattr(kind, "__match_args__", None)
            if named is None and not listed and type(kind) is type and class_flags(kind) & _IMMUTABLE:
                return kind  # nobody gives it any later
            if named is not None and (type(named) is not tuple or any(type(n) is not str for n in named)):
                raise TypeError("__match_args__ must be a tuple of strings")
        elif not listed:
            return kind  # a class of the library, which a program cannot change
        strict = False
        for name in (*(named or ())[:positions], *listed):
            if name[:2] == "__" and name[-2:] == "__":
                raise AttributeRefused(f"the attribute {name!r} cannot be used in a pattern")
            strict = strict or name[:1] == "_" or name in names.SUSPECT or name in names.MODULES
        # CPython asks the class twice, and the subject's own code may run between: what stands in answers the same each time.
        key = (id(kind), named, strict)
        known = self._patterns.get(key)
        if known is None or known[0] is not kind:
            known = self._patterns[key] = (kind, self._pattern_class(kind, named, strict))
        return known[1]

    def _pattern_class(self, kind: type, named: tuple[str, ...] | None, strict: bool) -> type:
        class Meta(type):
            def __instancecheck__(cls, subject: Any) -> bool:
                return isinstance(subject, kind) and (not strict or is_plain(type(subject)))

        if named is not None:
            return Meta(class_name(kind), (), {"__match_args__": named})
        # Without any: CPython matches numbers, texts and containers themselves, by a flag that their subclasses inherit.
        own = [base for base in class_mro(kind) if class_flags(base) & _MATCH_SELF and class_flags(base) & _IMMUTABLE]
        return Meta(class_name(kind), tuple(own[:1]), {})


_IMMUTABLE, _MATCH_SELF = 1 << 8, 1 << 22  # Py_TPFLAGS_IMMUTABLETYPE, _Py_TPFLAGS_MATCH_SELF
