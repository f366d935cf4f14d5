"""Which folders of the host are the interpreter's library."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safeexec.policy import Policy


def third_party(policy: Policy) -> list[str]:
    """Top-level names of the imports that are not the standard library's."""
    names = {pattern.partition(".")[0] for pattern in policy.allowed_imports() if pattern != "*"}
    return sorted(names - sys.stdlib_module_names)


def own_packages(names: list[str]) -> list[tuple[str, str]]:
    """Packages among `names` that lie elsewhere than in the usual folders: the folder to import each from, and what it consists of."""
    if not names:
        return []
    import importlib.util

    usual = paths()
    found = []
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or [])
        if not places and spec.origin and spec.has_location:
            places = [spec.origin]
        for place in map(os.path.abspath, places):
            folder = os.path.dirname(place)
            if folder not in usual:
                found.append((folder, place))
    return found


def paths() -> list[str]:
    """The entries of sys.path that are libraries: the standard library's and the installed packages' folders.

    Not the script's folder, the working directory or development installs: they hold the user's own files.
    """
    stdlib = os.path.dirname(os.__file__)
    names = (f"python{sys.version_info[0]}{sys.version_info[1]}.zip", "lib-dynload", "site-packages", "dist-packages")
    return [p for p in sys.path if os.path.isabs(p) and (p == stdlib or os.path.basename(p) in names)]


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
