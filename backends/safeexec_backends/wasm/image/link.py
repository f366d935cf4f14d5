"""Make one closed module of Pyodide's interpreter: everything it wants from JavaScript is linked in or refused.

Of some 550 imports about 70 stay (the system calls of `syscalls`), a few become WebAssembly functions (helpers.wat),
and the rest become functions that stop the guest: there is nothing behind them that could be reached.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import NamedTuple

import wasmtime

from .binary import (
    KIND_FUNCTION,
    KIND_GLOBAL,
    START,
    TABLE,
    Export,
    FormatError,
    FunctionType,
    Global,
    Import,
    Module,
    encode_unsigned,
    encode_vector,
    i32_constant,
    unsigned,
)
from .code import relocate, renumber_calls, skip_locals
from .exceptions import Types, translate

# Functions that are only asked whether they want to handle something: null or 0 says "no, go on".
_DECLINE = frozenset(
    {
        "_maybe_connect_async",
        "_maybe_poll_async",
        "_maybe_recvfrom_async",
        "_maybe_sendto_async",
        "_try_fcntl64",
        "_try_shutdown",
        "_Py_emscripten_runtime",
        "_emscripten_lookup_name",
        "emscripten_runtime_keepalive_pop",
        "emscripten_runtime_keepalive_push",
        "_emscripten_runtime_keepalive_clear",
        "emscripten_debugger",
        "emscripten_log_impl_js",
        "_emscripten_log_formatted",
        "_emscripten_get_progname",
        "gc_register_proxies",
        "__hiwire_deduplicate_new",  # runs in a constructor
    }
)
# What the C library is told where there is nothing: no such host, no such address family, no protocols, no shell.
_ANSWERS = {"getaddrinfo": -2, "getnameinfo": -6, "getprotobyname": 0, "_emscripten_system": -52}
_ENOSYS = 52  # in WASI's numbering, which emscripten uses
_ZERO = {b"\x7f": b"\x41\x00", b"\x7e": b"\x42\x00", b"\x7d": b"\x43" + bytes(4), b"\x7c": b"\x44" + bytes(8)}
_ZERO |= {b"\x6f": b"\xd0\x6f", b"\x70": b"\xd0\x70"}
# CPython measures its stack by the stack pointer of linear memory, but it is the machine's stack that overflows first, and many
# recursive functions keep nothing in linear memory. Each function that checks for recursion, and the destructor of all objects, is
# therefore charged this many bytes of linear stack per call: the check then sees them, and raises RecursionError in time.
_CHARGE = 64
_CHARGED = "_Py_Dealloc"
CHARGED_CHECKS = ("Py_EnterRecursiveCall", "_Py_CheckRecursiveCall", "_Py_ReachedRecursionLimitWithMargin")
# Makes every OSError of C code: a helper calls it, with an error number of Linux's, and it asks another one for the message (errors.py).
_RAISING = "PyErr_SetFromErrnoWithFilenameObjects"
# Host functions that the helpers use. `missing` takes the index of the name in Linked.missing and does not return.
GLOBAL_PREFIX = "safeexec_global_"
MISSING = Import("host", "missing", KIND_FUNCTION, b"")


class Linked(NamedTuple):
    """A closed module."""

    module: bytes
    missing: tuple[str, ...]  # names of the functions that stop the guest, by the number they hand to host.missing
    table: dict[str, int]  # table index of each helper that CPython calls through a pointer


def stub(name: str, kind: FunctionType, number: int, missing: int) -> bytes:
    """The body of a function that JavaScript would have supplied."""
    if name.startswith("__syscall_") and kind.results == (b"\x7f",):
        code = i32_constant(-_ENOSYS)[:-1]
    elif name in _ANSWERS:
        code = i32_constant(_ANSWERS[name])[:-1]
    elif name in _DECLINE:
        code = b"".join(_ZERO[result] for result in kind.results)
    else:
        code = i32_constant(number)[:-1] + b"\x10" + encode_unsigned(missing) + b"\x00"
    return b"\x00" + code + b"\x0b"


def charging(parameters: int, original: int, stack_pointer: int) -> bytes:
    """The body of a wrapper that lowers the stack pointer while the original runs."""

    def move(op: int) -> bytes:
        pointer = encode_unsigned(stack_pointer)
        return b"\x23" + pointer + i32_constant(_CHARGE)[:-1] + bytes((op,)) + b"\x24" + pointer

    arguments = b"".join(b"\x20" + encode_unsigned(n) for n in range(parameters))
    return b"\x00" + move(0x6B) + arguments + b"\x10" + encode_unsigned(original) + move(0x6A) + b"\x0b"


def link(source: bytes, provided: Collection[str], pointers: Collection[str]) -> Linked:
    """Close Pyodide's module.

    `provided` names the imports that the host supplies; `pointers` the helpers that get an index in the function table.
    Raises FormatError where the module is not what this builder knows.
    """
    module = Module(source)
    helper = Module(bytes(wasmtime.wat2wasm(resources.files(__package__).joinpath("helpers.wat").read_text())))
    types = Types(module.read_types())
    imports = module.read_imports()
    exports = module.read_exports()
    functions = module.read_functions()
    exported = {e.name: e.number for e in exports if e.kind == KIND_FUNCTION}

    old_functions = [i for i in imports if i.kind == KIND_FUNCTION]
    old_globals = [i for i in imports if i.kind == KIND_GLOBAL]
    if len(old_functions) + len(old_globals) != len(imports):
        raise FormatError("the module imports something other than functions and globals")
    helper_types = helper.read_types()
    type_map = [_index(types, t) for t in helper_types]
    helper_imports = [i for i in helper.read_imports() if i.kind == KIND_FUNCTION]
    helper_functions = helper.read_functions()
    helper_exports = {e.name: e.number - len(helper_imports) for e in helper.read_exports()}

    kept = [i for i in old_functions if i.name in provided and i.name not in helper_exports]
    unknown = set(provided) - {i.name for i in old_functions}
    if unknown:
        raise FormatError(f"the module does not import {', '.join(sorted(unknown))}")
    new_imports = list(kept)
    for item in helper_imports:
        if item.module == "host":
            kind = type_map[unsigned(item.description, 0)[0]]
            new_imports.append(item._replace(description=encode_unsigned(kind)))
    missing_type = _index(types, FunctionType((b"\x7f",), ()))
    missing_index = len(new_imports)
    new_imports.append(MISSING._replace(description=encode_unsigned(missing_type)))

    # The new function index space: imports, the module's own functions, helpers, stubs.
    own = len(new_imports)
    first_helper = own + len(functions)
    first_stub = first_helper + len(helper_functions)
    positions = {(i.module, i.name): n for n, i in enumerate(new_imports)}
    stubbed: list[Import] = []
    mapping: list[int] = []
    for item in old_functions:
        if item.name in helper_exports:
            mapping.append(first_helper + helper_exports[item.name])
        elif (item.module, item.name) in positions:
            mapping.append(positions[item.module, item.name])
        else:
            mapping.append(first_stub + len(stubbed))
            stubbed.append(item)
    mapping += range(own, own + len(functions))
    for name, index in helper_exports.items():  # a helper also takes the place of a function of that name
        if name in exported:
            mapping[exported[name]] = first_helper + index
    encoded = [encode_unsigned(n) for n in mapping]

    def helper_function(index: int) -> int:
        if index >= len(helper_imports):
            return first_helper + index - len(helper_imports)
        item = helper_imports[index]
        if item.module == "original":  # the function whose place a helper has taken
            return own + exported[item.name] - len(old_functions)
        return positions[item.module, item.name] if item.module == "host" else mapping[exported[item.name]]

    all_types = types.all
    tags = [all_types[t] for t in module.read_tags()]
    bodies = []
    checks = frozenset(exported[name] for name in CHARGED_CHECKS)
    charged = [exported[_CHARGED] - len(old_functions)]
    raising = exported[_RAISING] - len(old_functions)
    asking = [*encoded]
    asking[exported["strerror"]] = encode_unsigned(first_helper + helper_exports["safeexec_strerror"])
    for number, (kind, body) in enumerate(zip(functions, module.read_bodies(), strict=True)):
        calls = asking if number == raising else encoded
        new, legacy, recursive = renumber_calls(body, skip_locals(body)[2], calls, checks)
        bodies.append(translate(body, all_types[kind], tags, types, calls) if legacy else new)
        if recursive and number + len(old_functions) not in checks:
            charged.append(number)
    for body in helper.read_bodies():
        bodies.append(
            relocate(body, function=helper_function, type_index=type_map.__getitem__, global_index=_no_globals)
        )
    stub_types = [unsigned(i.description, 0)[0] for i in stubbed]
    for number, (item, kind) in enumerate(zip(stubbed, stub_types, strict=True)):
        bodies.append(stub(item.name, all_types[kind], number, missing_index))

    # The body of a charged function moves to the end; its old number is that of the wrapper, so that every call pays.
    stack_pointer = next(e.number for e in exports if e.name == "__stack_pointer" and e.kind == KIND_GLOBAL)
    for number in charged:
        original = own + len(bodies)
        bodies.append(bodies[number])
        bodies[number] = charging(len(all_types[functions[number]].parameters), original, stack_pointer)

    module.write_imports(new_imports)
    module.write_functions(
        [*functions, *(type_map[t] for t in helper_functions), *stub_types, *(functions[n] for n in charged)]
    )
    module.write_bodies(bodies)
    module.write_types(types.all)
    # The imported globals came first; as defined globals they keep their numbers. They are emscripten's GOT for functions
    # that exist only in browsers: null.
    module.write_globals(
        [Global(i.description[:-1], i.description[-1] == 1, i32_constant(0)) for i in old_globals]
        + module.read_globals()
    )
    table = module.read_tables()
    size, after = unsigned(table[0], 2)
    if table[0][:2] != b"\x70\x00":
        raise FormatError("table 0 is not a growable table of functions")
    table[0] = table[0][:2] + encode_unsigned(size + len(pointers)) + table[0][after:]
    module.sections[TABLE] = encode_vector(table)
    segments = [(offset, [mapping[f] for f in items]) for offset, items in module.read_elements()]
    segments.append((size, [first_helper + helper_exports[name] for name in pointers]))
    module.write_elements(segments)
    if START in module.sections:
        start, _ = unsigned(module.sections[START], 0)
        module.sections[START] = encoded[start]
    new_exports = [e._replace(number=mapping[e.number]) if e.kind == KIND_FUNCTION else e for e in exports]
    taken = {e.name for e in new_exports}
    new_exports += [
        Export(name, KIND_FUNCTION, first_helper + index) for name, index in helper_exports.items() if name not in taken
    ]
    # So that the image builder can read them after the boot.
    new_exports += [
        Export(f"{GLOBAL_PREFIX}{index}", KIND_GLOBAL, index)
        for index, item in enumerate(module.read_globals())
        if item.mutable
    ]
    module.write_exports(new_exports)
    return Linked(module.dump(), tuple(i.name for i in stubbed), {name: size + n for n, name in enumerate(pointers)})


def _index(types: Types, wanted: FunctionType) -> int:
    if wanted not in types.all:
        types.all.append(wanted)
    return types.all.index(wanted)


def _no_globals(index: int) -> int:
    raise FormatError(f"the helpers use global {index}")
