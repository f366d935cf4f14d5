"""The language wall changes the library of the process it runs in, which is a cell's own. Here it is the tests': it is put back."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec_backends.local.language import RestrictedLanguage
from safeexec_backends.local.language.patches import install

GUARDED = (
    "getattr",
    "hasattr",
    "setattr",
    "delattr",
    "open",
    "io",
    "_sys",
    "exec",
    "events",
    "tasks",
)
"""Names that the wall puts over those of library modules."""
_MODULES = {"io": io, "_sys": sys, "events": asyncio.events, "tasks": asyncio.tasks}
"""What those of these names that are no builtins stand for."""
_ABSENT = object()


def _library() -> dict[str, types.ModuleType]:
    found = {name: module for name, module in list(sys.modules.items()) if isinstance(module, types.ModuleType)}
    return {name: module for name, module in found.items() if name.partition(".")[0] in sys.stdlib_module_names}


@pytest.fixture(autouse=True, scope="module")
def the_library_is_put_back() -> Iterator[None]:
    install()  # once for a process: what it puts there stays, or the modules after the first would be attacked without it
    before = {name: {key: vars(module).get(key, _ABSENT) for key in GUARDED} for name, module in _library().items()}
    from_file = zipfile.ZipInfo.__dict__["from_file"]
    yield
    for name, module in _library().items():
        names = vars(module)
        for key in GUARDED:
            was = before[name][key] if name in before else names.get(key, _ABSENT)
            if name not in before and str(getattr(was, "__module__", "")).startswith("safeexec_backends."):
                was = _MODULES.get(key, _ABSENT)  # it was first imported for the wall
            if was is _ABSENT:
                names.pop(key, None)
            elif names.get(key) is not was:
                names[key] = was
    setattr(zipfile.ZipInfo, "from_file", from_file)  # noqa: B010


@pytest.fixture(autouse=True)
def the_loggers_are_put_back() -> Iterator[None]:
    """Programs set up logging anew, which silences all loggers that there were: those of the sandboxes that other tests listen to."""
    manager = logging.root.manager
    known = [logging.root, *(found for found in manager.loggerDict.values() if isinstance(found, logging.Logger))]
    before = [(logger, logger.disabled, logger.level, logger.propagate) for logger in known]
    threshold, handlers = manager.disable, logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers  # with one left there, basicConfig() of the next program does nothing
    for logger, disabled, level, propagate in before:
        logger.disabled, logger.propagate = disabled, propagate
        logger.setLevel(level)
    logging.disable(threshold)


@pytest.fixture(autouse=True)
def tracebacks_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have them cut, for all that comes after it in this process."""
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    monkeypatch.delattr(sys, "tracebacklimit")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Runs steps of one program, in a folder of its own; each gives its last expression's value."""
    monkeypatch.chdir(tmp_path)
    language = RestrictedLanguage(None, environ={})
    namespace = language.namespace()

    def step(source: str) -> Any:
        value = None
        for code in language.compile(source, "<step 1>"):
            value = eval(code, namespace)
        return value

    return step
