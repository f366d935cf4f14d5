"""Which folders of the host are the interpreter's library."""

from __future__ import annotations

import importlib.util
import os
import sys

from safeexec.policy import Policy


def third_party(policy: Policy) -> list[str]:
    """Top-level names of the imports that are not the standard library's."""
    names = {pattern.partition(".")[0] for pattern in policy.allowed_imports() if pattern != "*"}
    return sorted(names - sys.stdlib_module_names)


def paths() -> list[str]:
    """The entries of sys.path that are libraries: the standard library's and the installed packages' folders.

    Not the script's folder, the working directory or development installs: they hold the user's own files.
    """
    stdlib = os.path.dirname(os.__file__)
    own = {stdlib, os.path.join(stdlib, "lib-dynload")}
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    kept = []
    for path in sys.path:
        name = os.path.basename(path)
        if os.path.isabs(path) and (path in own or name == zipped or name in ("site-packages", "dist-packages")):
            kept.append(path)
    dynamic = importlib.util.find_spec("_ctypes")
    if dynamic is not None and dynamic.origin and os.path.isabs(dynamic.origin):
        folder = os.path.dirname(dynamic.origin)
        if folder not in kept:
            kept.append(folder)
    return kept


def readable() -> list[str]:
    """What a cell may read: the interpreter's library, the shared libraries under it, and time zones."""
    stdlib = os.path.dirname(os.__file__)
    prefixes = {os.path.dirname(stdlib), os.path.join(sys.base_prefix, "lib"), os.path.join(sys.base_prefix, "lib64")}
    system = ["/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib", "/nix/store"]
    return [
        path
        for path in [*system, "/etc/ld.so.cache", "/usr/share/zoneinfo", *sorted(prefixes), *paths()]
        if os.path.exists(path)
    ]
