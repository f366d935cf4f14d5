"""Write a running instance into a module: its data segment is then the initialised interpreter."""

from __future__ import annotations

from safeexec_backends.wasm import abi

from .binary import (
    DATA,
    DATA_COUNT,
    KIND_GLOBAL,
    KIND_TABLE,
    MEMORY,
    START,
    Export,
    FormatError,
    Module,
    encode_unsigned,
    i32_constant,
)
from .link import GLOBAL_PREFIX
from .state import changeable

_BLOCK = 4096


def freeze(linked: bytes, instance: abi.Instance) -> bytes:
    """The module `linked` with the memory and the globals that `instance` has now.

    Memory becomes one dense segment, so that wasmtime can map it copy-on-write. The start function is dropped: it would clear what was
    initialised. Raises FormatError where the instance has state that a module cannot express.
    """
    module = Module(linked)
    exports = module.read_exports()
    globals_ = module.read_globals()
    names = {e.number: e.name for e in exports if e.kind == KIND_GLOBAL and e.name.startswith(GLOBAL_PREFIX)}
    for index, item in enumerate(globals_):
        if item.mutable:
            if item.type != b"\x7f":
                raise FormatError("a mutable global that is not a 32-bit number")
            globals_[index] = item._replace(init=i32_constant(instance.global_value(names[index])))
    module.write_globals(globals_)
    kept = [e for e in exports if not e.name.startswith(GLOBAL_PREFIX)]
    try:
        state = changeable(module)
    except FormatError:
        pass  # then instances of this image are not used again, for nobody could tell what is left in them
    else:
        kept += [Export(f"{abi.STATE_GLOBAL}{n}", KIND_GLOBAL, index) for n, index in enumerate(state.globals)]
        kept += [Export(f"{abi.STATE_TABLE}{n}", KIND_TABLE, index) for n, index in enumerate(state.tables)]
    module.write_exports(kept)

    memory = bytes(instance.memory.view)
    if module.sections[MEMORY][:2] != b"\x01\x01":
        raise FormatError("not one memory with a maximum")
    module.sections[MEMORY] = b"\x01\x01" + encode_unsigned(len(memory) // abi.PAGE) + encode_unsigned(abi.MAX_PAGES)
    empty = bytes(_BLOCK)
    first = 0
    while memory[first : first + _BLOCK] == empty:
        first += _BLOCK
    last = len(memory)
    while memory[last - _BLOCK : last] == empty:
        last -= _BLOCK
    module.sections[DATA] = b"\x01\x00" + i32_constant(first) + encode_unsigned(last - first) + memory[first:last]
    if DATA_COUNT in module.sections:
        module.sections[DATA_COUNT] = b"\x01"
    module.sections.pop(START, None)
    return module.dump()
