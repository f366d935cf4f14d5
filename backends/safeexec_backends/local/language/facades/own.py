"""Modules of the program's own: Python files in its working directory, run under the rules of every step.

A file that a program wrote, or was given, can be run by ``exec(open("helper.py").read())`` anyway; ``import helper`` does no more than that, in
a namespace of its own. It opens no module of anybody else's: the standard library's names are never looked for among files, and what the
file imports goes through the same gate.
"""

from __future__ import annotations

import keyword
import linecache
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from safeexec.guest import source_lines
from safeexec_backends.local.language.identity import own_module
from safeexec_backends.local.language.tokens import token

from .paths import check, open_file
from .views import space_module

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

_MOST = 16 * 2**20
"""Bytes of one source file."""


class OwnModules:
    """The modules of one session that are files of its own."""

    def __init__(self, language: RestrictedLanguage) -> None:
        self._language = language
        self._spaces: dict[str, tuple[Any, dict[str, Any]]] = {}

    def locate(self, name: str) -> str | None:
        """The file or, for a package without an ``__init__.py``, the folder of the module `name`; None where there is none."""
        parts = name.split(".")
        # A file may not pass for a module of the library: neither this sandbox nor who reads the program expects it.
        if parts[0] in sys.stdlib_module_names or not all(p.isidentifier() and not keyword.iskeyword(p) for p in parts):
            return None
        # In its package it would take the place of what the sandbox or the interpreter keeps there.
        if any(p[:2] == "__" and p[-2:] == "__" for p in parts):
            return None
        for folder in self._folders():
            base = os.path.join(folder, *parts)
            for path, wanted in (
                (os.path.join(base, "__init__.py"), stat.S_ISREG),
                (base + ".py", stat.S_ISREG),
                (base, stat.S_ISDIR),
            ):
                try:
                    # Only where `open` works: of other places a program shall not learn what there is.
                    if wanted(os.stat(check(path)).st_mode):
                        return path
                except (OSError, ValueError):
                    continue
        return None

    def find(self, name: str) -> Any:
        """The module called `name`, run if this is its first import; None where there is no such file.

        :raises BaseException: whatever the file's code raises; the module is then not kept.
        """
        known = self._spaces.get(name)
        if known is not None:
            return known[0]
        parent, _, child = name.rpartition(".")
        if parent and self.find(parent) is None:
            return None
        known = self._spaces.get(name)
        if known is not None:  # its package imports it
            return known[0]
        path = self.locate(name)
        if path is None:
            return None
        package = os.path.basename(path) == "__init__.py" or not path.endswith(".py")
        space: dict[str, Any] = {
            "__name__": own_module(name),
            "__doc__": None,
            "__package__": name if package else parent,
            "__file__": os.path.abspath(path),
            "__builtins__": self._language.builtins,
        }
        if package:
            space["__path__"] = [os.path.abspath(os.path.dirname(path) if path.endswith(".py") else path)]
        shown = space_module(self._language, lambda: space, name)
        self._spaces[name] = shown, space
        try:
            if path.endswith(".py"):
                self._run(name, path, space)
        except BaseException:
            self.forget(name)
            raise
        if parent:
            self._spaces[parent][1][child] = shown
        return shown

    def reload(self, module: Any) -> Any:
        """Run the file of `module` once more, in its namespace; what is no file of the program's stays as it is."""
        for name, (shown, space) in list(self._spaces.items()):
            if shown is module:
                path = self.locate(name)
                if path is None:
                    raise ModuleNotFoundError(f"spec not found for the module {name!r}", name=name)
                if path.endswith(".py"):
                    self._run(name, path, space)
        return module

    def forget(self, name: str) -> None:
        """Let the next import of `name` run its file again."""
        self._spaces.pop(name, None)

    def loaded(self) -> dict[str, Any]:
        """Name to module."""
        return {name: shown for name, (shown, _) in self._spaces.items()}

    def behind(self, module: Any) -> dict[str, Any] | None:
        """The globals of `module`, if it is one of these."""
        return next((space for shown, space in self._spaces.values() if shown is module), None)

    def spaces(self) -> list[dict[str, Any]]:
        """Their globals."""
        return [space for _, space in self._spaces.values()]

    def _folders(self) -> list[str]:
        extra = self._language.gate.build("sys").path
        return [os.curdir, *(p for p in list(extra) if type(p) is str and p)]

    def _run(self, name: str, path: str, space: dict[str, Any]) -> None:
        with open_file(path, "rb") as file:
            raw = file.read(_MOST + 1)
        if len(raw) > _MOST:
            raise ImportError(f"{path} is too large for a module", name=name)
        from io import BytesIO
        from tokenize import detect_encoding

        try:
            source = raw.decode(detect_encoding(BytesIO(raw).readline)[0]).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise SyntaxError(f"{os.path.basename(path)} is not text: {error}") from None
        # Not the file's own name: a traceback would read the lines from whatever lies there by then.
        filename = f"<{os.path.relpath(path)}>"
        linecache.cache[filename] = len(source), None, source_lines(source), filename
        code = self._language.compile_module(source, filename, self._guards(space))
        self._language.run(code, space)

    def _guards(self, space: dict[str, Any]) -> dict[str, Any]:
        """What import statements of the module call: its package's, where they begin with a dot."""
        package = space["__package__"]
        gate = self._language.gate

        def absolute(name: str) -> str:
            level = len(name) - len(name.lstrip("."))
            if not level:
                return name
            parts = package.split(".") if package else []
            if not parts:
                raise ImportError("attempted relative import with no known parent package")
            if level > len(parts):
                raise ImportError("attempted relative import beyond top-level package")
            return ".".join([*parts[: len(parts) - level + 1], *([name[level:]] if name[level:] else [])])

        def member(module: str, name: str) -> Any:
            return gate.member(absolute(module), name)

        def every(module: str) -> None:
            gate.every(absolute(module), 2)

        return {token("import_from"): member, token("import_all"): every}
