"""``except*`` without trusting a program's own exception groups."""

from __future__ import annotations

from typing import Any

from .identity import is_class, is_exception

# The C members themselves: a program's exception may answer for its attributes as it likes.
_context = BaseException.__dict__["__context__"]
_cause = BaseException.__dict__["__cause__"]
_traceback = BaseException.__dict__["__traceback__"]
_exceptions = BaseExceptionGroup.__dict__["exceptions"]
# A program's own split() may return anything, and CPython would not look.
_split: Any = BaseExceptionGroup.split


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)


class Star:
    """An ``except*`` statement at work: splits the group by the clauses, gathers what they raise (PEP 654)."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._naked = not _is_group(error)
        self._rest: BaseException | None = BaseExceptionGroup("", (error,)) if self._naked else error
        self._raised: list[BaseException] = []
        self._taken = False
        self._part: BaseException | None = None
        self._was: tuple[BaseException, Any, Any] | None = None

    def take(self, kinds: Any) -> BaseException | None:
        """The part of the group that a clause handles."""
        for kind in kinds if type(kinds) is tuple else (kinds,):
            if not is_class(kind) or not is_exception(kind):
                raise TypeError("catching classes that do not inherit from BaseException is not allowed")
            if issubclass(kind, BaseExceptionGroup):
                raise TypeError("catching ExceptionGroup with except* is not allowed. Use except instead.")
        if self._rest is None:
            return None
        match, rest = _split(self._rest, kinds)
        if match is not None:
            self._taken = True
            if self._naked:
                match = self._rest  # the group that it was put into, not another one
            self._rest = rest
        self._part = match
        return self._part

    def begin(self) -> None:
        """A clause begins: its part is as it was before it was raised for the clause."""
        part = self._part
        self._part = None
        if part is not None:
            _context.__set__(part, None if self._naked else _context.__get__(self._error))
            _traceback.__set__(part, None if self._naked else _traceback.__get__(self._error))

    def keep(self, error: BaseException) -> None:
        """What a clause raised."""
        self._raised.append(error)

    def _is_of_the_group(self, error: BaseException) -> bool:
        """Whether `error` is a part raised again by a bare ``raise``, which changes nothing of it."""
        return _is_group(error) and all(
            member.__get__(error) is member.__get__(self._error) for member in (_context, _cause, _traceback)
        )

    def _left(self) -> BaseException | None:
        if not self._taken and not self._raised:
            return self._error
        if self._naked:
            return self._raised[0] if self._raised else None
        again = [e for e in self._raised if self._is_of_the_group(e)]
        others = [e for e in self._raised if not self._is_of_the_group(e)]
        if self._rest is not None:
            again.append(self._rest)
        if again:
            kept = {id(leaf) for error in again for leaf in _leaves(error)}
            others.append(_split(self._error, lambda error: id(error) in kept)[0])
        return BaseExceptionGroup("", others) if len(others) > 1 else others[0] if others else None

    def end(self) -> None:
        """Raise what is left after the clauses, if anything."""
        error = self._left()
        if error is None:
            return
        self._was = error, _context.__get__(error), _traceback.__get__(error)
        try:
            raise error
        finally:
            del error

    def settle(self, error: BaseException) -> None:
        """What `end` raised goes on as it was: the group that was caught is not its context, nor the statement where it happened."""
        was, self._was = self._was, None
        if was is not None and was[0] is error:
            _context.__set__(error, was[1])
            _traceback.__set__(error, was[2])


def _leaves(error: BaseException) -> list[BaseException]:
    found = []
    queue = [error]
    while queue:
        item = queue.pop()
        if _is_group(item):
            queue += _exceptions.__get__(item)
        else:
            found.append(item)
    return found


def star(*error: BaseException) -> Any:
    """The state of an ``except*`` statement; without an argument, the class that its handlers catch."""
    return Star(error[0]) if error else BaseException
