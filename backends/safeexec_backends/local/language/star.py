"""``except*`` without trusting a program's own exception groups."""

from __future__ import annotations

from typing import Any

from .identity import class_mro, is_class, is_exception


class Star:
    """An ``except*`` statement at work: splits the group by the clauses, gathers what they raise."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._naked = BaseExceptionGroup not in class_mro(type(error))
        self._rest: BaseException | None = BaseExceptionGroup("", [error]) if self._naked else error
        self._raised: list[BaseException] = []
        self._taken = False

    def take(self, kinds: Any) -> BaseException | None:
        """The part of the group that a clause handles."""
        for kind in kinds if type(kinds) is tuple else (kinds,):
            if not is_class(kind) or not is_exception(kind):
                raise TypeError("catching classes that do not inherit from BaseException is not allowed")
            if BaseExceptionGroup in class_mro(kind):
                raise TypeError("catching ExceptionGroup with except* is not allowed. Use except instead.")
        if self._rest is None:
            return None
        # The C method itself: a program's own split() may return anything, and CPython would not look.
        split: Any = BaseExceptionGroup.split
        match: BaseException | None
        match, rest = split(self._rest, kinds)
        if match is not None:
            self._taken = True
            self._rest = rest
        return match

    def keep(self, error: BaseException) -> None:
        """What a clause raised."""
        self._raised.append(error)

    def rest(self) -> BaseException | None:
        """What goes on after the clauses."""
        if not self._taken and not self._raised:
            return self._error
        if not self._raised:
            return self._rest
        others = [self._rest] if self._rest is not None else []
        if not others and len(self._raised) == 1 and BaseExceptionGroup in class_mro(type(self._raised[0])):
            return self._raised[0]
        return BaseExceptionGroup("", [*self._raised, *others])


def star(*error: BaseException) -> Any:
    """The state of an ``except*`` statement; without an argument, the class that its handlers catch."""
    return Star(error[0]) if error else BaseException
