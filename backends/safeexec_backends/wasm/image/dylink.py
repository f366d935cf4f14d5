"""Side modules: shared libraries of WebAssembly, as emscripten makes them of a package's extension modules.

Source of the format: the WebAssembly tool conventions, "Dynamic Linking" (custom section `dylink.0`). The files come out of wheels, so from
strangers: whatever does not read as the format says is refused with FormatError, before anything is made of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .binary import FormatError, Module

_MEMORY_INFO, _NEEDED, _EXPORT_INFO, _IMPORT_INFO, _RUNTIME_PATH = 1, 2, 3, 4, 5
_WEAK: Final = 1
_SECTION: Final = b"\x08dylink.0"
MAX_SIDE: Final = 128 << 20
"""Bytes of one side module; the largest known (of scipy and torch) have a fifth of it."""
MAX_MEMORY: Final = 64 << 20
MAX_TABLE: Final = 1 << 18
_MAX_ALIGNMENT: Final = 16
_MAX_NAMES: Final = 200_000


class Dylink(NamedTuple):
    """What a side module says it needs. Sizes in bytes and table elements; alignments in bytes and elements."""

    memory_size: int = 0
    memory_alignment: int = 1
    table_size: int = 0
    table_alignment: int = 1
    needed: tuple[str, ...] = ()
    weak: frozenset[tuple[str, str]] = frozenset()
    """Imports, as (module, name), that may stay without a meaning."""


class Side(NamedTuple):
    """One side module, and the path of its file in the sandbox."""

    path: str
    module: Module
    dylink: Dylink


class Reader:
    """Reads numbers and names of a bounded range; every step is checked against its end."""

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = start
        self.end = len(data) if end is None else end

    def number(self) -> int:
        """An unsigned 32-bit LEB128 number."""
        result = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                if result >> 32:
                    break
                return result
        raise FormatError("a number of more than 32 bits")

    def byte(self) -> int:
        """One byte."""
        if self.position >= self.end:
            raise FormatError("it ends too early")
        self.position += 1
        return self.data[self.position - 1]

    def name(self) -> str:
        """A length and as many bytes of UTF-8."""
        start, size = self.position, self.number()
        start = self.position
        if size > self.end - start:
            raise FormatError("a name reaches beyond its section")
        self.position = start + size
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise FormatError("a name is not UTF-8") from error

    def count(self) -> int:
        """A count of items of at least a byte each."""
        found = self.number()
        if found > min(self.end - self.position, _MAX_NAMES):
            raise FormatError(f"{found} items in {self.end - self.position} bytes")
        return found


def _power(exponent: int) -> int:
    if exponent > _MAX_ALIGNMENT:
        raise FormatError(f"an alignment of 2**{exponent}")
    return 1 << exponent


def parse(content: bytes) -> Dylink:
    """Read the content of a `dylink.0` section, without its name. Raises FormatError."""
    found = Dylink()
    seen = set()
    reader = Reader(content)
    while reader.position < reader.end:
        kind, size = reader.byte(), reader.number()
        if kind in seen:
            raise FormatError(f"subsection {kind} of dylink.0 comes twice")
        seen.add(kind)
        if size > reader.end - reader.position:
            raise FormatError(f"subsection {kind} of dylink.0 reaches beyond the section")
        part = Reader(content, reader.position, reader.position + size)
        reader.position += size
        if kind == _MEMORY_INFO:
            memory, memory_power, table, table_power = (part.number() for _ in range(4))
            if memory > MAX_MEMORY or table > MAX_TABLE:
                raise FormatError(f"it wants {memory} bytes of static memory and {table} table elements")
            found = found._replace(
                memory_size=memory, memory_alignment=_power(memory_power),
                table_size=table, table_alignment=_power(table_power),
            )  # fmt: skip
        elif kind == _NEEDED:
            found = found._replace(needed=tuple(part.name() for _ in range(part.count())))
        elif kind == _EXPORT_INFO:
            continue  # marks thread-local symbols, which are ordinary ones without threads
        elif kind == _IMPORT_INFO:
            weak = set()
            for _ in range(part.count()):
                module, name, flags = part.name(), part.name(), part.number()
                if flags & _WEAK:
                    weak.add((module, name))
            found = found._replace(weak=frozenset(weak))
        elif kind == _RUNTIME_PATH:
            continue  # libraries are found by their file's name, wherever in the packages it lies
        else:
            raise FormatError(f"subsection {kind} of dylink.0 is unknown")
        if part.position != part.end:
            raise FormatError(f"subsection {kind} of dylink.0 is longer than its content")
    return found


def read(path: str, data: bytes) -> Side:
    """Read a side module. Raises FormatError, whose message names the file."""
    try:
        if len(data) > MAX_SIDE:
            raise FormatError(f"it has more than {MAX_SIDE} bytes")
        if data[:4] != b"\0asm":
            raise FormatError("it is no WebAssembly module: the wheel is for another platform")
        module = Module(data)
        if not module.custom or not module.custom[0].startswith(_SECTION):
            raise FormatError("it has no dylink.0 section, so it is no shared library of emscripten's")
        return Side(path, module, parse(module.custom[0][len(_SECTION) :]))
    except IndexError as error:
        raise FormatError(f"{path} cannot be linked: it ends too early") from error
    except FormatError as error:
        raise FormatError(f"{path} cannot be linked: {error}") from error
