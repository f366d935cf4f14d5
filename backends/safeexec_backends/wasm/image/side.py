"""One side module on its way into the interpreter's: its imports resolved, its indices renumbered."""

from __future__ import annotations

from typing import Final

from .binary import (
    DATA,
    ELEMENT,
    END,
    I32_CONST,
    KIND_FUNCTION,
    KIND_GLOBAL,
    KIND_MEMORY,
    KIND_TABLE,
    KIND_TAG,
    MEMORY,
    START,
    TABLE,
    Export,
    FormatError,
    FunctionType,
    Global,
    Import,
    constant_expression,
    encode_unsigned,
    i32_constant,
    signed,
    unsigned,
)  # fmt: skip
from .dylink import Side
from .exceptions import Types, translate
from .growing import I32, Growing
from .link import charging
from .relocate import Legacy, Numbers, relocate

_ENTROPY: Final = "getentropy"
_SETUP_PREFIX: Final = "safeexec_setup_"
_STEPS: Final = ("__wasm_apply_data_relocs", "__wasm_call_ctors")


class Library:
    """One side module on its way into the interpreter's."""

    def __init__(self, main: Growing, side: Side, memory: int, table: int) -> None:
        self.main, self.side, self.memory, self.table = main, side, memory, table
        module = side.module
        self.needed: list[Library] = []
        if TABLE in module.sections or MEMORY in module.sections:
            raise FormatError("it has a table or a memory of its own")
        self.types = Types(module.read_types())
        self.imports = module.read_imports()
        self.kinds = module.read_functions()
        self.bodies = module.read_bodies()
        if len(self.bodies) != len(self.kinds):
            raise FormatError("it has more functions than bodies, or fewer")
        self.own_globals = module.read_globals()
        exports = module.read_exports()
        self.exported = {e.name: e.number for e in exports if e.kind == KIND_FUNCTION}
        self.exported_globals = {e.name: e.number for e in exports if e.kind == KIND_GLOBAL}
        self.imported = [i for i in self.imports if i.kind == KIND_FUNCTION]
        self.first = 0  # number of its first own function in the new module
        self.functions: list[int] = []  # new numbers by old ones
        self.globals: list[bytes] = []
        self.values: list[int | None] = []  # of the globals that are constants

    def place(self) -> None:
        """Give its functions their numbers. The bodies follow when every library has its place."""
        main = self.main
        all_types = self.types.all
        self.first = len(main.function_types)
        for kind in self.kinds:
            main.add_function(main.type_number(all_types[kind]), b"")

    def own(self, name: str) -> int | None:
        """The new number of a function that it exports and defines."""
        number = self.exported.get(name)
        return None if number is None or number < len(self.imported) else self.first + number - len(self.imported)

    def address(self, name: str) -> int | None:
        """The address of data that it exports and defines."""
        number = self.exported_globals.get(name)
        imported = len(self.imports) - len(self.imported) - self._others
        if number is None or number < imported:
            return None
        return (self._evaluate(self.own_globals[number - imported].init) + self.memory) & 0xFFFFFFFF

    @property
    def _others(self) -> int:
        return sum(i.kind in (KIND_TABLE, KIND_MEMORY, KIND_TAG) for i in self.imports)

    def family(self) -> list[Library]:
        """Itself, then what it needs, directly or not."""
        found = [self]
        for library in found:
            found += [other for other in library.needed if other not in found]
        return found

    def find_function(self, item: Import | None, name: str) -> int | None:
        """The function that a name means to this library."""
        number = self.main.functions.get(name)
        if number is None and item is not None:
            number = self.main.host_function(item)
        for library in self.family():
            if number is None:
                number = library.own(name)
        return number

    def resolve(self, first_slot: int) -> Numbers:
        """Every import's meaning. Raises FormatError."""
        main = self.main
        tags = []
        all_types = self.types.all
        for item in self.imports:
            if item.kind == KIND_FUNCTION:
                kind = main.type_number(all_types[unsigned(item.description, 0)[0]])
                number = self.find_function(item, item.name)
                if item.name == _ENTROPY and number == main.functions.get(_ENTROPY):
                    number = main.counted(_ENTROPY)
                if number is None:
                    number = main.stub(item.name, kind)
                elif (
                    main.function_types[number] != kind and main.types[main.function_types[number]] != main.types[kind]
                ):
                    raise FormatError(f"it calls {item.name} with other arguments than the function takes")
                self.functions.append(number)
            elif item.kind == KIND_GLOBAL:
                self._import_global(item, first_slot)
            elif item.kind == KIND_TAG:
                tag = main.named_tags.get(item.name)
                kind = unsigned(item.description, 1)[0]
                if tag is None or main.types[main.tags[tag]] != all_types[kind]:
                    raise FormatError(f"it throws {item.name}, which the interpreter does not know")
                tags.append(tag)
            elif (item.module, item.name) not in (("env", "memory"), ("env", "__indirect_function_table")):
                raise FormatError(
                    f"it imports {item.module}.{item.name}, which is no memory or table of the interpreter's"
                )
        self.tag_types = [main.types[main.tags[t]] for t in tags]
        for kind in self.side.module.read_tags():
            self.tag_types.append(all_types[kind])
            tags.append(len(main.tags))
            main.tags.append(main.type_number(all_types[kind]))
        self.functions += range(self.first, self.first + len(self.kinds))
        for own in self.own_globals:
            self._define_global(own)
        return Numbers(
            [encode_unsigned(n) for n in self.functions],
            self.globals,
            [encode_unsigned(n) for n in tags],
            (),  # grows while exceptions are translated: see write()
        )

    def _import_global(self, item: Import, first_slot: int) -> None:
        main, name = self.main, item.name
        value: int | None = None
        if item.module == "GOT.func":
            number = self.find_function(None, name)
            if number is not None:
                value = main.slot(number, first_slot)
            elif ("GOT.func", name) in self.side.dylink.weak or ("env", name) in self.side.dylink.weak:
                value = 0
            else:
                # What it is called with is not known, so any call traps: on the type, or in the stub.
                value = main.slot(main.stub(name, main.type_number(FunctionType((), ()))), first_slot)
        elif item.module == "GOT.mem":
            value = self._find_data(name)
        elif name == "__memory_base":
            value = self.memory
        elif name == "__table_base":
            value = self.table
        elif name == "__stack_pointer":
            self.globals.append(encode_unsigned(main.stack_pointer))
            self.values.append(None)
            return
        else:
            raise FormatError(f"it imports the global {item.module}.{name}, which nobody has")
        self.values.append(value)
        self.globals.append(main.constant_global(value))

    def _find_data(self, name: str) -> int:
        number = self.main.named_globals.get(name)
        if number is not None:
            return self.main.constant(number)
        for library in self.family():
            value = library.address(name)
            if value is not None:
                return value
        if ("GOT.mem", name) in self.side.dylink.weak or ("env", name) in self.side.dylink.weak:
            return 0
        raise FormatError(f"it needs the data {name!r}, which neither the interpreter nor a library beside it has")

    def _define_global(self, item: Global) -> None:
        main = self.main
        if item.mutable and item.type != I32:
            raise FormatError("it has a mutable global that is not a 32-bit number")
        if item.type == I32:
            value = self._evaluate(item.init)
            self.values.append(None if item.mutable else value)
            item = item._replace(init=i32_constant(value))
        elif constant_expression(item.init, 0) != len(item.init) or item.init[0] not in (0x42, 0x43, 0x44):
            raise FormatError("it has a global whose value is not a number")
        else:
            self.values.append(None)
        self.globals.append(encode_unsigned(len(main.globals)))
        main.globals.append(item)

    def _evaluate(self, code: bytes) -> int:
        """A constant expression of 32-bit numbers, as code for relocation uses them."""
        stack: list[int] = []
        position = 0
        while (op := code[position]) != END[0]:
            position += 1
            if op == I32_CONST:
                number, position = signed(code, position)
                stack.append(number)
            elif op == 0x23:
                index, position = unsigned(code, position)
                value = self.values[index] if index < len(self.values) else None
                if value is None:
                    raise FormatError("a constant expression of something that is no constant")
                stack.append(value)
            elif op in (0x6A, 0x6B, 0x6C) and len(stack) > 1:
                right, left = stack.pop(), stack.pop()
                stack.append(
                    (left + right if op == 0x6A else left - right if op == 0x6B else left * right) & 0xFFFFFFFF
                )
            else:
                raise FormatError(f"opcode {op:#x} in a constant expression")
        if len(stack) != 1:
            raise FormatError("a constant expression without a value")
        return stack[0] & 0xFFFFFFFF

    def write(self, numbers: Numbers) -> None:
        """Its bodies, data and table elements."""
        main = self.main
        identity = [encode_unsigned(n) for n in range(len(self.functions))]
        offset = len(main.function_types) - len(main.own_functions)
        types = [main.type_number(t) for t in self.types.all]
        for place, body in enumerate(self.bodies):
            try:
                new, recursive = relocate(body, numbers._replace(types=types), main.checks)
            except Legacy:
                kind = self.types.all[self.kinds[place]]
                body = translate(body, kind, self.tag_types, self.types, identity)
                types += [main.type_number(t) for t in self.types.all[len(types) :]]
                new, recursive = relocate(body, numbers._replace(types=types), main.checks)
            own = self.first - offset + place
            if recursive:
                kept = main.add_function(main.own_functions[own], new)
                parameters = len(main.types[main.own_functions[own]].parameters)
                new = charging(parameters, kept, main.stack_pointer)
            main.bodies[own] = new
        self._write_data()
        self._write_elements()

    def _write_data(self) -> None:
        data, count, position = self.side.module.section(DATA)
        for _ in range(count):
            if data[position] != 0:
                raise FormatError("a data segment that is not active")
            after = constant_expression(data, position + 1)
            address = self._evaluate(data[position + 1 : after])
            size, position = unsigned(data, after)
            if size > len(data) - position:
                raise FormatError("a data segment ends after its section")
            # Within its own memory: what lies before and behind belongs to others.
            if not self.memory <= address <= address + size <= self.memory + self.side.dylink.memory_size:
                raise FormatError("a data segment outside the library's memory")
            self.main.segments.append(
                b"\0" + i32_constant(address) + encode_unsigned(size) + data[position : position + size]
            )
            position += size

    def _write_elements(self) -> None:
        data, count, position = self.side.module.section(ELEMENT)
        for _ in range(count):
            if data[position] != 0:
                raise FormatError("an element segment that is not active on the one table")
            after = constant_expression(data, position + 1)
            start = self._evaluate(data[position + 1 : after])
            length, position = unsigned(data, after)
            if not self.table <= start <= start + length <= self.table + self.side.dylink.table_size:
                raise FormatError("an element segment outside the library's table")
            functions = []
            for _ in range(length):
                index, position = unsigned(data, position)
                functions.append(self.functions[index])
            self.main.elements.append((start, functions))

    def setup(self, number: int) -> list[str]:
        """Export what must be called when it is loaded; the names."""
        calls = []
        if START in self.side.module.sections:
            calls.append(self.functions[unsigned(self.side.module.sections[START], 0)[0]])
        calls += [self.functions[self.exported[step]] for step in _STEPS if step in self.exported]
        names = []
        for step, function in enumerate(calls):
            if self.main.types[self.main.function_types[function]] != FunctionType((), ()):
                raise FormatError("a constructor that takes arguments")
            names.append(f"{_SETUP_PREFIX}{number}_{step}")
            self.main.exports.append(Export(names[-1], KIND_FUNCTION, function))
        return names
