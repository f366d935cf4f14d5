"""Link side modules into the interpreter's module, ahead of time: one module, one memory, nothing left to do when a sandbox starts.

What emscripten's dynamic linker does at run time is decided here: where a library's data and table elements lie, which function and which address
each of its symbols is. Its functions are appended to the interpreter's, its imports become plain calls of them, `__memory_base`, `__table_base` and the
GOT become constants. `dlopen` then only looks up what is there already (Merged.libraries).

A library's imports can name what the interpreter exports, what the interpreter itself may ask of the host, and what libraries beside it export; anything
else becomes a function that stops the guest. So native code in a package can do nothing that the guest's Python could not do.
Order of lookup, as emscripten's: the interpreter, the library itself, the libraries it needs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from .binary import FormatError
from .dylink import Side
from .growing import Growing
from .link import Linked
from .side import Library

_MAX_MEMORY: Final = 256 << 20
_ENTRY: Final = "PyInit_"


class Merged(NamedTuple):
    """A module with its libraries."""

    module: bytes
    missing: tuple[str, ...]
    libraries: Mapping[str, Mapping[str, int]]
    """Path of each library: its entry points, as table indices."""
    setup: tuple[str, ...]
    """Exports to call, in this order, once the interpreter runs: the libraries' constructors."""
    reserved: tuple[int, int]
    """Start and end of the memory they lie in, from the heap's start: to be taken from the heap before anything is allocated."""


def merge(linked: Linked, sides: Sequence[Side]) -> Merged:
    """Link `sides` into the module. Raises FormatError, whose message names the file at fault."""
    main = Growing(linked)
    libraries: list[Library] = []
    memory, table = main.heap, main.table_size
    by_name: dict[str, Library] = {}
    for side in sides:
        info = side.dylink
        memory = -(-memory // info.memory_alignment) * info.memory_alignment
        table = -(-table // info.table_alignment) * info.table_alignment
        with _blamed(side):
            library = Library(main, side, memory, table)
            library.place()
        libraries.append(library)
        by_name.setdefault(posixpath.basename(side.path), library)
        memory += info.memory_size
        table += info.table_size
        if memory - main.heap > _MAX_MEMORY:
            raise FormatError(f"the packages' libraries want more than {_MAX_MEMORY >> 20} MiB of static memory")
    memory = -(-memory // 16) * 16
    main.table_size = table
    for library in libraries:
        with _blamed(library.side):
            for name in library.side.dylink.needed:
                if name not in by_name:
                    raise FormatError(f"it needs the shared library {name}, which is in none of the packages")
                library.needed.append(by_name[name])
    found: dict[str, dict[str, int]] = {}
    setup: list[str] = []
    for number, library in enumerate(_dependencies_first(libraries)):
        with _blamed(library.side):
            numbers = library.resolve(table)
            library.write(numbers)
            setup += library.setup(number)
            found[library.side.path] = {
                name: main.slot(own, table)
                for name in library.exported
                if name.startswith(_ENTRY) and (own := library.own(name)) is not None
            }
    return Merged(main.dump(memory), tuple(main.missing), found, tuple(setup), (main.heap, memory))


def _dependencies_first(libraries: Sequence[Library]) -> list[Library]:
    """The order in which their constructors run; a circle is cut somewhere."""
    done: list[Library] = []
    for library in libraries:
        done += [other for other in reversed(library.family()) if other not in done]
    return done


class _blamed:
    """Names the file in an error that reading or linking it raised."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, FormatError | IndexError | UnicodeDecodeError):
            reason = str(error) if isinstance(error, FormatError) else "an index or a name in it makes no sense"
            raise FormatError(f"{self._side.path} cannot be linked: {reason}") from error
