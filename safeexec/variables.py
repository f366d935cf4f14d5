"""The variables of a session, as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from safeexec.errors import ProtocolError

if TYPE_CHECKING:
    from safeexec.session import Session


class Variables(MutableMapping[str, Any]):
    """See :attr:`Session.variables`. Raises KeyError for a missing name, TypeError for a value with no plain form, LimitExceeded."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str):
            raise KeyError(name)
        try:
            return self._session._decoded({"t": "get", "name": name})
        except KeyError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._session._set({name: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several variables in one request."""
        self._session._set(dict(*args, **kwargs))

    def __delitem__(self, name: str) -> None:
        try:
            self._session._request({"t": "del", "name": name})
        except KeyError:
            raise KeyError(name) from None

    def _names(self) -> list[str]:
        answer, _ = self._session._request({"t": "names"})
        names = answer.get("v")
        if type(names) is not list or not all(type(name) is str for name in names):
            raise ProtocolError("a malformed list of names")
        return names

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __bool__(self) -> bool:
        return True
