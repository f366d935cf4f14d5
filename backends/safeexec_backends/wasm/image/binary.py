"""Sections of a WebAssembly module: read, change, write.

Source of the format: the WebAssembly core specification, "Binary Format", with exception handling
(tags, section 13) and reference types. Only what the image builder needs is decoded; everything else
is carried along as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_ITEMS = 1_000_000
"""Of one section: the largest modules known have a tenth of that. A type may be three bytes and an import four, and what is made of either is a hundred."""
MAX_PARAMETERS = 1000  # of a function, and of its results: no engine takes more
MAX_CUSTOM = 10_000
MAGIC = b"\0asm\1\0\0\0"
PAGE = 65536

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA = range(12)
DATA_COUNT, TAG = 12, 13
# The order in which the specification wants the sections; the numbers are not in that order.
ORDER = (TYPE, IMPORT, FUNCTION, TABLE, MEMORY, TAG, GLOBAL, EXPORT, START, ELEMENT, DATA_COUNT, CODE, DATA)

KIND_FUNCTION, KIND_TABLE, KIND_MEMORY, KIND_GLOBAL, KIND_TAG = range(5)
END = b"\x0b"
I32_CONST, I64_CONST, F32_CONST, F64_CONST = 0x41, 0x42, 0x43, 0x44


class FormatError(ValueError):
    """The module uses something the image builder does not know."""


class Import(NamedTuple):
    """One import: `description` is the type as it stands in the binary, without the kind byte."""

    module: str
    name: str
    kind: int
    description: bytes


class Global(NamedTuple):
    """One defined global: `init` is the whole constant expression with its end."""

    type: bytes
    mutable: bool
    init: bytes


class Export(NamedTuple):
    """One export."""

    name: str
    kind: int
    number: int


class FunctionType(NamedTuple):
    """A function's type: one bytes per value type."""

    parameters: tuple[bytes, ...]
    results: tuple[bytes, ...]


def unsigned(data: bytes, position: int) -> tuple[int, int]:
    """Read an unsigned LEB128 number; return it and the position after it."""
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise FormatError("a number of more than 64 bits")


def signed(data: bytes, position: int) -> tuple[int, int]:
    """Read a signed LEB128 number; return it and the position after it."""
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (result - (1 << shift) if byte & 0x40 else result), position
        if shift > 70:
            raise FormatError("a number of more than 64 bits")


def encode_unsigned(number: int) -> bytes:
    """Write an unsigned LEB128 number."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_signed(number: int) -> bytes:
    """Write a signed LEB128 number."""
    out = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        if (number == 0 and not byte & 0x40) or (number == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def encode_vector(items: Sequence[bytes]) -> bytes:
    """Write a vector: the count, then the items."""
    return encode_unsigned(len(items)) + b"".join(items)


def encode_name(name: str) -> bytes:
    """Write a name."""
    data = name.encode()
    return encode_unsigned(len(data)) + data


def i32_constant(value: int) -> bytes:
    """The constant expression of a 32-bit number, taken modulo 2**32."""
    value &= 0xFFFFFFFF
    return bytes((I32_CONST,)) + encode_signed(value - (1 << 32) if value >> 31 else value) + END


def value_type(data: bytes, position: int) -> int:
    """The position after a value type."""
    if data[position] in (0x63, 0x64):  # (ref null ht), (ref ht)
        return signed(data, position + 1)[1]
    return position + 1


def limits(data: bytes, position: int) -> int:
    """The position after the limits of a memory or a table."""
    flags = data[position]
    _, position = unsigned(data, position + 1)
    if flags & 1:
        _, position = unsigned(data, position)
    return position


def constant_expression(data: bytes, position: int) -> int:
    """The position after a constant expression."""
    while (op := data[position]) != 0x0B:
        position += 1
        if op in (I32_CONST, I64_CONST, 0x23, 0xD2, 0xD0):
            _, position = unsigned(data, position)
        elif op == F32_CONST:
            position += 4
        elif op == F64_CONST:
            position += 8
        elif op not in (0x6A, 0x6B, 0x6C):  # add, sub and mul of extended constant expressions
            raise FormatError(f"opcode {op:#x} in a constant expression")
    return position + 1


def _types(data: bytes, position: int) -> tuple[tuple[bytes, ...], int]:
    count, position = unsigned(data, position)
    if count > MAX_PARAMETERS:
        raise FormatError(f"a function of {count} parameters or results")
    found = []
    for _ in range(count):
        after = value_type(data, position)
        found.append(data[position:after])
        position = after
    return tuple(found), position


def _name(data: bytes, position: int) -> tuple[str, int]:
    length, position = unsigned(data, position)
    return data[position : position + length].decode(), position + length


class Module:
    """A module as its sections. The `read_*` methods decode one, the `write_*` methods replace one."""

    def __init__(self, data: bytes) -> None:
        if data[:8] != MAGIC:
            raise FormatError("not a WebAssembly module")
        self.sections: dict[int, bytes] = {}
        self.custom: list[bytes] = []
        position = 8
        while position < len(data):
            kind = data[position]
            size, position = unsigned(data, position + 1)
            content = data[position : position + size]
            if len(content) != size:
                raise FormatError("a section ends after the module does")
            if kind == CUSTOM:
                self.custom.append(content)
                if len(self.custom) > MAX_CUSTOM:
                    raise FormatError("custom sections without end")
            elif kind in self.sections or kind not in ORDER:
                raise FormatError(f"section {kind} is unknown or comes twice")
            else:
                self.sections[kind] = content
            position += size

    def dump(self) -> bytes:
        """The module in the binary format, without its custom sections."""
        parts = [MAGIC]
        for kind in ORDER:
            content = self.sections.get(kind)
            if content is not None:
                parts += [bytes((kind,)), encode_unsigned(len(content)), content]
        return b"".join(parts)

    def section(self, kind: int) -> tuple[bytes, int, int]:
        """A section that is a vector: its bytes, how many items, where the first begins."""
        data = self.sections.get(kind, b"\0")
        count, position = unsigned(data, 0)
        if count > MAX_ITEMS:
            raise FormatError(f"a section of {count} items")
        return data, count, position

    def read_types(self) -> list[FunctionType]:
        """The function types (nothing else is allowed among the types)."""
        data, count, position = self.section(TYPE)
        types = []
        for _ in range(count):
            if data[position] != 0x60:
                raise FormatError(f"type {data[position]:#x} is not a function type")
            parameters, position = _types(data, position + 1)
            results, position = _types(data, position)
            types.append(FunctionType(parameters, results))
        return types

    def write_types(self, types: Iterable[FunctionType]) -> None:
        """Replace the type section."""
        self.sections[TYPE] = encode_vector(
            [b"\x60" + encode_vector(t.parameters) + encode_vector(t.results) for t in types]
        )

    def read_imports(self) -> list[Import]:
        """The imports, in their order."""
        data, count, position = self.section(IMPORT)
        found = []
        for _ in range(count):
            module, position = _name(data, position)
            name, position = _name(data, position)
            kind = data[position]
            start = position = position + 1
            if kind == KIND_FUNCTION:
                _, position = unsigned(data, position)
            elif kind == KIND_TABLE:
                position = limits(data, value_type(data, position))
            elif kind == KIND_MEMORY:
                position = limits(data, position)
            elif kind == KIND_GLOBAL:
                position = value_type(data, position) + 1
            elif kind == KIND_TAG:
                _, position = unsigned(data, position + 1)
            else:
                raise FormatError(f"import of kind {kind}")
            found.append(Import(module, name, kind, data[start:position]))
        return found

    def write_imports(self, imports: Iterable[Import]) -> None:
        """Replace the import section."""
        self.sections[IMPORT] = encode_vector(
            [encode_name(i.module) + encode_name(i.name) + bytes((i.kind,)) + i.description for i in imports]
        )

    def read_functions(self) -> list[int]:
        """The type index of every defined function."""
        data, count, position = self.section(FUNCTION)
        found = []
        for _ in range(count):
            index, position = unsigned(data, position)
            found.append(index)
        return found

    def write_functions(self, types: Iterable[int]) -> None:
        """Replace the function section."""
        self.sections[FUNCTION] = encode_vector([encode_unsigned(t) for t in types])

    def read_tables(self) -> list[bytes]:
        """The tables' types, as bytes."""
        data, count, position = self.section(TABLE)
        found = []
        for _ in range(count):
            after = limits(data, value_type(data, position))
            found.append(data[position:after])
            position = after
        return found

    def read_globals(self) -> list[Global]:
        """The defined globals."""
        data, count, position = self.section(GLOBAL)
        found = []
        for _ in range(count):
            middle = value_type(data, position)
            after = constant_expression(data, middle + 1)
            found.append(Global(data[position:middle], data[middle] == 1, data[middle + 1 : after]))
            position = after
        return found

    def write_globals(self, items: Iterable[Global]) -> None:
        """Replace the global section."""
        self.sections[GLOBAL] = encode_vector([g.type + bytes((g.mutable,)) + g.init for g in items])

    def read_exports(self) -> list[Export]:
        """The exports."""
        data, count, position = self.section(EXPORT)
        found = []
        for _ in range(count):
            name, position = _name(data, position)
            index, after = unsigned(data, position + 1)
            found.append(Export(name, data[position], index))
            position = after
        return found

    def write_exports(self, items: Iterable[Export]) -> None:
        """Replace the export section."""
        self.sections[EXPORT] = encode_vector(
            [encode_name(e.name) + bytes((e.kind,)) + encode_unsigned(e.number) for e in items]
        )

    def read_tags(self) -> list[int]:
        """The type index of every defined tag."""
        data, count, position = self.section(TAG)
        found = []
        for _ in range(count):
            index, position = unsigned(data, position + 1)
            found.append(index)
        return found

    def read_bodies(self) -> list[bytes]:
        """The functions' bodies: local declarations and code, without the size."""
        data, count, position = self.section(CODE)
        found = []
        for _ in range(count):
            size, position = unsigned(data, position)
            found.append(data[position : position + size])
            position += size
        return found

    def write_bodies(self, bodies: Iterable[bytes]) -> None:
        """Replace the code section."""
        items = list(bodies)
        parts = [encode_unsigned(len(items))]
        for body in items:
            parts += [encode_unsigned(len(body)), body]
        self.sections[CODE] = b"".join(parts)

    def read_elements(self) -> list[tuple[int, list[int]]]:
        """The active segments of table 0: offset and function indices. Other kinds are refused."""
        data, count, position = self.section(ELEMENT)
        found = []
        for _ in range(count):
            if data[position] != 0 or data[position + 1] != I32_CONST:
                raise FormatError("an element segment that is not active on table 0")
            offset, position = signed(data, position + 2)
            length, position = unsigned(data, position + 1)
            functions = []
            for _ in range(length):
                index, position = unsigned(data, position)
                functions.append(index)
            found.append((offset & 0xFFFFFFFF, functions))
        return found

    def write_elements(self, segments: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Replace the element section by active segments of table 0."""
        self.sections[ELEMENT] = encode_vector(
            [
                b"\0" + i32_constant(offset) + encode_vector([encode_unsigned(f) for f in functions])
                for offset, functions in segments
            ]
        )
