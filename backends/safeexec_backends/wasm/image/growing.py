"""The interpreter's module while libraries are linked into it."""

from __future__ import annotations

from typing import Final

from .binary import (
    DATA,
    DATA_COUNT,
    END,
    I32_CONST,
    KIND_FUNCTION,
    KIND_GLOBAL,
    KIND_TAG,
    MEMORY,
    PAGE,
    TABLE,
    TAG,
    Export,
    FormatError,
    FunctionType,
    Global,
    Import,
    Module,
    encode_unsigned,
    encode_vector,
    i32_constant,
    signed,
    unsigned,
)  # fmt: skip
from .link import CHARGED_CHECKS, GLOBAL_PREFIX, MISSING, Linked, stub

DRAWS: Final = GLOBAL_PREFIX + "draws"
"""Exported global: how often libraries asked for randomness themselves. Rust's do, for the seeds of their hash tables."""
I32: Final = b"\x7f"
_OURS: Final = "safeexec_"


class Growing:
    """The interpreter's module, growing."""

    def __init__(self, linked: Linked) -> None:
        self.module = module = Module(linked.module)
        self.types = module.read_types()
        self._type_numbers = {t: n for n, t in reversed(list(enumerate(self.types)))}
        imports = [i for i in module.read_imports() if i.kind == KIND_FUNCTION]
        self.exports = module.read_exports()
        self.own_functions = module.read_functions()
        self.function_types = [unsigned(i.description, 0)[0] for i in imports] + self.own_functions
        self.bodies = module.read_bodies()
        self.globals = module.read_globals()
        self.tags = module.read_tags()
        self.elements = module.read_elements()
        self.missing = list(linked.missing)
        table = module.read_tables()[0]
        self.table_size, self._after_size = unsigned(table, 2)
        self.segments: list[bytes] = []
        self._imported = {(i.module, i.name): n for n, i in enumerate(imports)}
        self.missing_function = self._imported[MISSING.module, MISSING.name]
        named = {e.name: e for e in self.exports if not e.name.startswith(_OURS)}
        self.functions = {n: e.number for n, e in named.items() if e.kind == KIND_FUNCTION}
        self.named_globals = {n: e.number for n, e in named.items() if e.kind == KIND_GLOBAL}
        self.named_tags = {n: e.number for n, e in named.items() if e.kind == KIND_TAG}
        self.slots: dict[int, int] = {}
        for offset, functions in self.elements:
            for place, function in enumerate(functions):
                self.slots.setdefault(function, offset + place)
        self.new_slots: list[int] = []
        self.checks = frozenset(encode_unsigned(self.functions[name]) for name in CHARGED_CHECKS)
        self.stack_pointer = self.named_globals["__stack_pointer"]
        self.heap = self.constant(self.named_globals["__heap_base"])
        self._constants: dict[int, bytes] = {}
        self._stubs: dict[tuple[str, int], int] = {}
        self._counted: dict[str, int] = {}
        self.draws = len(self.globals)
        self.globals.append(Global(I32, True, i32_constant(0)))
        self.exports.append(Export(DRAWS, KIND_GLOBAL, self.draws))

    def type_number(self, wanted: FunctionType) -> int:
        """The number of a type, added if it is new."""
        number = self._type_numbers.get(wanted)
        if number is None:
            number = self._type_numbers[wanted] = len(self.types)
            self.types.append(wanted)
        return number

    def constant(self, number: int) -> int:
        """The value of an immutable 32-bit global."""
        item = self.globals[number]
        if item.mutable or item.type != I32 or item.init[0] != I32_CONST:
            raise FormatError("it uses the address of something that has none")
        return signed(item.init, 1)[0] & 0xFFFFFFFF

    def constant_global(self, value: int) -> bytes:
        """The encoded number of a global with this value."""
        if value not in self._constants:
            self._constants[value] = encode_unsigned(len(self.globals))
            self.globals.append(Global(I32, False, i32_constant(value)))
        return self._constants[value]

    def add_function(self, kind: int, body: bytes) -> int:
        """Append a function; its number."""
        self.own_functions.append(kind)
        self.function_types.append(kind)
        self.bodies.append(body)
        return len(self.function_types) - 1

    def stub(self, name: str, kind: int) -> int:
        """A function for a name that nobody has."""
        if (name, kind) not in self._stubs:
            body = stub(name, self.types[kind], len(self.missing), self.missing_function)
            self.missing.append(name)
            self._stubs[name, kind] = self.add_function(kind, body)
        return self._stubs[name, kind]

    def counted(self, name: str) -> int:
        """A function that counts its calls in the global DRAWS and passes them on to the interpreter's of this name."""
        if name not in self._counted:
            target = self.functions[name]
            kind = self.function_types[target]
            counter = encode_unsigned(self.draws)
            count = b"\x23" + counter + b"\x41\x01\x6a\x24" + counter
            arguments = b"".join(b"\x20" + encode_unsigned(n) for n in range(len(self.types[kind].parameters)))
            call = b"\x10" + encode_unsigned(target)
            self._counted[name] = self.add_function(kind, b"\x00" + count + arguments + call + END)
        return self._counted[name]

    def slot(self, function: int, first_new: int) -> int:
        """The function's index in the table: its address."""
        if function not in self.slots:
            self.slots[function] = first_new + len(self.new_slots)
            self.new_slots.append(function)
        return self.slots[function]

    def host_function(self, item: Import) -> int | None:
        """What the interpreter asks of the host under this name."""
        return self._imported.get((item.module, item.name))

    def dump(self, end: int) -> bytes:
        """The whole module; its memory reaches at least to `end`."""
        module = self.module
        # Every mutable global must be read when the image is frozen.
        have = {e.number for e in self.exports if e.kind == KIND_GLOBAL and e.name.startswith(GLOBAL_PREFIX)}
        for number, item in enumerate(self.globals):
            if item.mutable and number not in have:
                self.exports.append(Export(f"{GLOBAL_PREFIX}{number}", KIND_GLOBAL, number))
        module.write_types(self.types)
        module.write_functions(self.own_functions)
        module.write_bodies(self.bodies)
        module.write_globals(self.globals)
        module.write_exports(self.exports)
        if self.tags:
            module.sections[TAG] = encode_vector([b"\0" + encode_unsigned(t) for t in self.tags])
        if self.new_slots:
            self.elements.append((self.table_size, self.new_slots))
        module.write_elements(self.elements)
        tables = module.read_tables()
        tables[0] = (
            tables[0][:2] + encode_unsigned(self.table_size + len(self.new_slots)) + tables[0][self._after_size :]
        )
        module.sections[TABLE] = encode_vector(tables)
        pages, after = unsigned(module.sections[MEMORY], 2)
        rest = module.sections[MEMORY][after:]
        module.sections[MEMORY] = module.sections[MEMORY][:2] + encode_unsigned(max(pages, -(-end // PAGE))) + rest
        data = module.sections.get(DATA, b"\0")
        count, start = unsigned(data, 0)
        total = encode_unsigned(count + len(self.segments))
        module.sections[DATA] = b"".join((total, data[start:], *self.segments))
        if DATA_COUNT in module.sections:
            module.sections[DATA_COUNT] = total
        return module.dump()
