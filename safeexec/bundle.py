"""The guest program as one text, for sandboxes in which safeexec is not installed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

_DEFINE = """
def _define(name, source):
    import sys, types
    module = types.ModuleType(name)
    module.__file__ = "<" + name + ">"
    sys.modules[name] = module
    exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
"""

_WIRE = "from safeexec import wire"


@cache
def modules() -> tuple[tuple[str, str], ...]:
    """Name and source of ``safeexec_wire`` and ``safeexec_guest``, in the order in which they are to be defined."""
    folder = Path(__file__).parent
    wire, guest = ((folder / f"{name}.py").read_text(encoding="utf-8") for name in ("wire", "guest"))
    # A sandbox may have another version of safeexec installed: the guest must take the wire that came with it.
    if guest.count(_WIRE) != 1:
        raise RuntimeError("guest.py does not import wire in the one way that is known here")
    return ("safeexec_wire", wire), ("safeexec_guest", guest.replace(_WIRE, "import safeexec_wire as wire"))


def guest_source(more: Iterable[tuple[str, str]] = ()) -> str:
    """A program text that defines the modules ``safeexec_wire`` and ``safeexec_guest``, then `more` of the sandbox's own, by name and source; whoever
    ships it appends the lines that start a guest.

    Needs CPython 3.9 or later and its standard library. The file name of each is its own in angle brackets, such as ``<safeexec_guest>``; those of the
    first two the guest leaves out of tracebacks.
    """
    defined = (f"_define({name!r}, {source!r})\n" for name, source in (*modules(), *more))
    return "".join((_DEFINE, *defined, "del _define\n"))
