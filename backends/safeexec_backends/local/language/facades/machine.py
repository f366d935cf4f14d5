"""platform and getpass: what a program is told of the machine and its user."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _platform(language: RestrictedLanguage) -> Exports:
    import platform

    values = {
        "system": "Linux", "node": "sandbox", "release": "", "version": "", "machine": "", "processor": "",
        "python_version": platform.python_version(), "python_implementation": platform.python_implementation(),
        "platform": "Linux",
    }  # fmt: skip
    return {name: _constant(value) for name, value in values.items()} | {
        "python_version_tuple": lambda: tuple(platform.python_version().split(".")),
        "platform": lambda aliased=False, terse=False: values["platform"],
        "architecture": lambda executable="", bits="", linkage="": (bits or "64bit", linkage or "ELF"),
        "uname": lambda: Uname(**{name: values[name] for name in Uname._fields}),
        "libc_ver": lambda *given, **more: ("", ""),
        "mac_ver": lambda *given, **more: ("", ("", "", ""), ""),
        "win32_ver": lambda *given, **more: ("", "", "", ""),
        "python_build": lambda: ("", ""),
        "python_compiler": lambda: "",
    }


# CPython's own starts a program for the last of these.
Uname = collections.namedtuple("Uname", "system node release version machine processor")
Uname.__name__ = Uname.__qualname__ = "uname_result"


def _constant(value: str) -> Callable[[], str]:
    return lambda: value


def _getpass(language: RestrictedLanguage) -> Exports:
    from safeexec.guest import refuse_input

    return {"getuser": _constant("sandbox"), "getpass": refuse_input, "GetPassWarning": UserWarning}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "platform": _platform,
    "getpass": _getpass,
}
