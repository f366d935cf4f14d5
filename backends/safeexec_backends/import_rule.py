"""The policy's imports, as a rule for the sandboxes that run the whole language, and what whoever broke it is told.

Also shipped as text into those sandboxes; CPython 3.9 and later, standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

_ALL = 12
"""So many names are shown whole."""
_CLOSE = 6
_LONGEST = 100
"""Characters of the program's own name that are compared: the time this takes grows with them."""


def nearest(name: str, patterns: Sequence[str]) -> str:
    """The names that a policy allows: all of a few, else those most like `name`, how many there are, and where they are listed."""
    if len(patterns) <= _ALL:
        return ", ".join(patterns) or "nothing"
    import difflib  # 2 ms that only who is refused something waits for

    asked = name[:_LONGEST]
    plain = {pattern[:-2] if pattern.endswith(".*") else pattern: pattern for pattern in patterns}
    family = [other for other in plain if other.partition(".")[0] == asked.partition(".")[0]]
    alike = difflib.get_close_matches(asked, plain, _CLOSE, 0.7)
    shown = [plain[other] for other in dict.fromkeys(family + alike)][:_CLOSE]
    rest = "{} {} (Policy.imports; by default safeexec.DEFAULT_IMPORTS)".format(
        len(patterns) - len(shown), "more" if shown else "modules"
    )
    return ", ".join(shown) + " and " + rest if shown else rest


class ImportRule:
    """Stands for `__import__` in a whole Python: what the code of a program may import, by a policy's patterns.

    Asked are its steps and its own files, in the working directory; a library imports what it needs. A rule for the model, not a wall: code
    that means to can get around it.
    """

    def __init__(self, guest: Any, patterns: Sequence[str], real: Callable[..., Any]) -> None:
        """`guest` is the module of the guest program, `real` what is asked when the rule has nothing against it."""
        self._guest = guest
        self._patterns = tuple(patterns)
        self._exact = frozenset(patterns)
        self._packages = tuple(p[:-1] for p in self._patterns if p.endswith(".*"))
        self._real = real
        # Where the working directory is the root of all files, or holds the libraries, those are no program's own.
        self._roots = tuple({os.path.join(place, "") for place in (os.getcwd(), os.path.realpath(os.getcwd()))})
        libraries = (os.path.dirname(getattr(os, "__file__", "")), sys.prefix, sys.base_prefix)
        self._libraries = tuple({os.path.join(place, "") for place in libraries} - {"", os.sep})

    def __call__(self, name: Any, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        asking = sys._getframe(1).f_globals if globals is None else globals
        # An empty list is what PyImport_Import passes: a built-in function's own import, as that of _strptime by datetime.strptime.
        internal = type(fromlist) is list and not fromlist
        if not level and not internal and isinstance(name, str) and self._is_asked(asking):
            if not self.allows(name, tuple(fromlist or ())):
                shown = nearest(name, self._patterns)
                raise self._guest.ImportRefused(f"Import of {name!r} is not allowed; allowed: {shown}", name=name)
        return self._real(name, globals, locals, fromlist, level)

    def allows(self, name: str, wanted: Sequence[Any] = ()) -> bool:
        """Whether a program may import `name`, and from it what is `wanted`."""
        if self._lets(name) or name in self._guest.own_modules or self._is_own_module(name.partition(".")[0]):
            return True
        # Importing urllib is how urllib.parse is reached, not urllib.request.
        below = any(p.startswith(name + ".") for p in self._patterns)
        return below and all(isinstance(item, str) and self._lets(name + "." + item) for item in wanted)

    def _lets(self, name: str) -> bool:
        if name in self._exact or "*" in self._exact or (name + ".").startswith(self._packages):
            return True
        # Below a standard module that is allowed, all is: os.path. (The host says so to Pythons before 3.10.)
        standard = name.partition(".")[0] in getattr(sys, "stdlib_module_names", ())
        return standard and any(name.startswith(allowed + ".") for allowed in self._exact)

    def _is_asked(self, namespace: Any) -> bool:
        if not isinstance(namespace, dict) or namespace.get("__name__") == "__main__":
            return True
        return self._is_own(namespace.get("__file__"))

    def _is_own(self, place: Any) -> bool:
        if not isinstance(place, str) or not place.startswith(self._roots) or place.startswith(self._libraries):
            return False
        return "site-packages" not in place and "dist-packages" not in place

    def _is_own_module(self, name: str) -> bool:
        module = sys.modules.get(name)
        if module is None:
            from importlib.util import find_spec

            try:
                spec = find_spec(name)
            except (ImportError, ValueError):
                return False
        else:
            spec = getattr(module, "__spec__", None)
        if spec is None:
            return False
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
        return bool(places) and all(map(self._is_own, places))
