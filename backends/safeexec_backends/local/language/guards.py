"""What compiled programs call at run time: reading, writing, matching."""

from __future__ import annotations

from typing import Any

from . import names
from .identity import (
    AttributeRefused,
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
        self._patterns: dict[tuple[int, tuple[str, ...], bool], tuple[type, type]] = {}

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
            if named is None:
                if not listed:
                    return kind
                named = ()
            if type(named) is not tuple or any(type(n) is not str for n in named):
                raise TypeError("__match_args__ must be a tuple of strings")
        elif not listed:
            return kind  # a class of the library, which a program cannot change
        strict = False
        for name in (*named[:positions], *listed):
            if name[:2] == "__" and name[-2:] == "__":
                raise AttributeRefused(f"the attribute {name!r} cannot be used in a pattern")
            strict = strict or name[:1] == "_" or name in names.SUSPECT or name in names.MODULES
        # CPython asks the class twice, and the subject's own code may run between: what stands in answers the same each time.
        key = (id(kind), named, strict)
        known = self._patterns.get(key)
        if known is None or known[0] is not kind:
            known = self._patterns[key] = (kind, self._pattern_class(kind, named, strict))
        return known[1]

    def _pattern_class(self, kind: type, named: tuple[str, ...], strict: bool) -> type:
        class Meta(type):
            def __instancecheck__(cls, subject: Any) -> bool:
                return isinstance(subject, kind) and (not strict or is_plain(type(subject)))

        return Meta(class_name(kind), (), {"__match_args__": named})
