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

from .binary import (
    DATA,
    DATA_COUNT,
    END,
    I32_CONST,
    KIND_FUNCTION,
    KIND_GLOBAL,
    KIND_MEMORY,
    KIND_TABLE,
    KIND_TAG,
    MEMORY,
    PAGE,
    START,
    TABLE,
    TAG,
    Export,
    FormatError,
    FunctionType,
    Global,
    Import,
    Module,
    constant_expression,
    encode_unsigned,
    encode_vector,
    i32_constant,
    signed,
    unsigned,
)
from .dylink import Side
from .exceptions import Types, translate
from .link import CHARGED_CHECKS, GLOBAL_PREFIX, MISSING, Linked, charging, stub
from .relocate import Legacy, Numbers, relocate

SETUP_PREFIX: Final = "safeexec_setup_"
DRAWS: Final = GLOBAL_PREFIX + "draws"
"""Exported global: how often libraries asked for randomness themselves. Rust's do, for the seeds of their hash tables."""
_OURS: Final = "safeexec_"
_ENTROPY: Final = "getentropy"
_STEPS: Final = ("__wasm_apply_data_relocs", "__wasm_call_ctors")
_MAX_MEMORY: Final = 256 << 20
_I32: Final = b"\x7f"
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


class _Main:
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
        self.globals.append(Global(_I32, True, i32_constant(0)))
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
        if item.mutable or item.type != _I32 or item.init[0] != I32_CONST:
            raise FormatError("it uses the address of something that has none")
        return signed(item.init, 1)[0] & 0xFFFFFFFF

    def constant_global(self, value: int) -> bytes:
        """The encoded number of a global with this value."""
        if value not in self._constants:
            self._constants[value] = encode_unsigned(len(self.globals))
            self.globals.append(Global(_I32, False, i32_constant(value)))
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


class _Library:
    """One side module on its way into the interpreter's."""

    def __init__(self, main: _Main, side: Side, memory: int, table: int) -> None:
        self.main, self.side, self.memory, self.table = main, side, memory, table
        module = side.module
        self.needed: list[_Library] = []
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

    def family(self) -> list[_Library]:
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
        for item in self.own_globals:
            self._define_global(item)
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
        if item.mutable and item.type != _I32:
            raise FormatError("it has a mutable global that is not a 32-bit number")
        if item.type == _I32:
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
        data, count, position = self.side.module.section(9)
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
            names.append(f"{SETUP_PREFIX}{number}_{step}")
            self.main.exports.append(Export(names[-1], KIND_FUNCTION, function))
        return names


def merge(linked: Linked, sides: Sequence[Side]) -> Merged:
    """Link `sides` into the module. Raises FormatError, whose message names the file at fault."""
    main = _Main(linked)
    libraries: list[_Library] = []
    memory, table = main.heap, main.table_size
    by_name: dict[str, _Library] = {}
    for side in sides:
        info = side.dylink
        memory = -(-memory // info.memory_alignment) * info.memory_alignment
        table = -(-table // info.table_alignment) * info.table_alignment
        with _blamed(side):
            library = _Library(main, side, memory, table)
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


def _dependencies_first(libraries: Sequence[_Library]) -> list[_Library]:
    """The order in which their constructors run; a circle is cut somewhere."""
    done: list[_Library] = []
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
