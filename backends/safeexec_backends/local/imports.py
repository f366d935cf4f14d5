"""What a zygote has imported for its cells: the language of each policy, the packages that a policy names, and, while nobody waits, whatever programs often want."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection
from typing import Any

from safeexec_backends._hardening import libc
from safeexec_backends.local import control
from safeexec_backends.local.ground import Ground

_EXTRA = {
    "matplotlib": ("matplotlib.pyplot", "matplotlib.backends.backend_agg"),
    "PIL": ("PIL.Image", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
}
"""What a package's users always want, and what is slow to import in every session."""

LANGUAGE = "safeexec_backends.local.language"


class Imports:
    """Those of one zygote. Nobody's code runs: they are the interpreter's library and the packages that the host's policy names."""

    def __init__(self, setup: control.Message, ground: Ground) -> None:
        self._setup = setup
        self._ground = ground
        self._done: set[str] = set()
        self._ahead: list[str] = []
        self._codes_ahead: list[str] = []
        self._languages: dict[tuple[str, ...], Any] = {}
        self.packages: set[str] = set()
        """Of what was imported, the packages, which are nobody's here."""
        self.generation = 0
        """How many modules have been imported: who was forked with fewer lacks the rest."""
        self.threads_from = ""
        """The module that started threads, if one did: a zygote that has any cannot be copied."""

    def expect(self, names: list[str]) -> None:
        """Have these ready when there is time, and all of the language."""
        self._ahead = [*_modules(LANGUAGE), *names]
        self._codes_ahead = list(names) if self._setup["language"] != "full" else []

    def one_ahead(self) -> bool:
        """Import the next of what is expected, or else get the code of one ready; whether there was one."""
        if self._ahead:
            self._import(self._ahead.pop(0))
            return True
        while self._codes_ahead:
            # A library of a dozen modules that runs as the program's own takes a fifth of a second the first time.
            if importlib.import_module(f"{LANGUAGE}.facades.borrowed").get_ready(self._codes_ahead[0]):
                self.generation += 1
                return True
            self._codes_ahead.pop(0)
        return False

    @property
    def languages(self) -> Collection[Any]:
        """Those that cells have had so far."""
        return self._languages.values()

    def of_policy(self, order: control.Message) -> Any:
        """Import what a cell's policy names, and return its language. Raises RuntimeError when a module has started threads."""
        self.packages |= set(order["preload"])
        for name in order["preload"]:
            for module in (name, *_EXTRA.get(name, ())):
                self._import(module)
        language = self.language(tuple(order["imports"]))
        if libc.READY and _threads(self._ground.plan.proc) != 1:
            raise RuntimeError(f"importing {self.threads_from or 'a module'} started threads; a zygote must have none")
        return language

    def language(self, imports: tuple[str, ...]) -> Any:
        """What runs the steps of a session that may import these."""
        if imports not in self._languages:
            if len(self._languages) > 64:
                self._languages.clear()
            if self._setup["language"] == "full":
                self._languages[imports] = importlib.import_module("safeexec.guest").Python()
            else:
                module = importlib.import_module(LANGUAGE)
                self._languages[imports] = module.RestrictedLanguage(imports=imports)
        return self._languages[imports]

    def _import(self, name: str) -> None:
        if name in self._done or name in self._setup["skip"]:
            return
        self._done.add(name)
        if name.partition(".")[0] == "matplotlib":
            # Its settings and font cache go to a folder of the zygote's own; cells inherit what was read.
            os.environ["MPLBACKEND"] = "Agg"
            os.environ["MPLCONFIGDIR"] = self._ground.scratch
        self.generation += 1
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            return  # the session that wants it gets the error, with its own traceback
        if libc.READY and not self.threads_from and _threads(self._ground.plan.proc) != 1:
            self.threads_from = name


def _modules(package: str) -> list[str]:
    """The names of the modules of a package that is imported, and of those below it."""
    found = []
    for folder in getattr(sys.modules.get(package), "__path__", ()):
        for path, _, names in os.walk(folder):
            parts = [package, *os.path.relpath(path, folder).replace(".", "").split("/")]
            found += [
                ".".join(p for p in [*parts, name[:-3]] if p)
                for name in names
                if name.endswith(".py") and name[0] != "_"
            ]
    return found


def _threads(proc: int) -> int:
    return os.stat("self/task", dir_fd=proc).st_nlink - 2
