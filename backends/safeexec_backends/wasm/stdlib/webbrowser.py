"""There is no browser in a sandbox: everything that opens a page says that it did not."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Error", "get", "open", "open_new", "open_new_tab", "register"]


class Error(Exception):
    """There is no browser that could be controlled."""


def register(name: str, constructor: object, instance: object = None, *, preferred: bool = False) -> None:
    """Accepted, and never used."""


def get(using: str | None = None) -> NoReturn:
    """Raises Error."""
    raise Error("could not locate runnable browser")


def open(url: str, new: int = 0, autoraise: bool = True) -> bool:
    """False: nothing was opened."""
    return False


def open_new(url: str) -> bool:
    """False: nothing was opened."""
    return False


def open_new_tab(url: str) -> bool:
    """False: nothing was opened."""
    return False
