"""One instance in a store of its own."""

from __future__ import annotations

import itertools
from ctypes import byref, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from safeexec_backends.wasm import stops
from safeexec_backends.wasm.faults import faults
from safeexec_backends.wasm.native import EngineError
from safeexec_backends.wasm.pages import Written, keep_small
from safeexec_backends.wasm.room import INSTANCE, room
from safeexec_backends.wasm.signals import handlers

from .library import FUNCTION, GLOBAL, MASK32, MEMORY, NO_FINALIZER, TABLE, Extern, Trap, library
from .memory import MAX_PAGES, PAGE, Memory
from .program import Host, Program, local

STATE_GLOBAL: Final = "safeexec_state_global_"
STATE_TABLE: Final = "safeexec_state_table_"
"""Names, a number behind, under which an image exports what its code can change."""
_MAX_DEPTH: Final = 4  # a host function may call the guest's allocator, which may call a host function
_HEADROOM: Final = 30


def _headroom(frames: int) -> None:
    """Raise RecursionError now if the host's own stack of Python frames is nearly used up.

    Inside a host function it would come too late: ctypes cannot report an exception from the very call of a callback, and the guest
    would read "success" from a function that did not run.
    """
    if frames:
        _headroom(frames - 1)


class Instance:
    """One instance in a store of its own. Used by one thread at a time; `memory_limit` is in bytes.

    Raises EngineError if it cannot be made (no addresses or no memory left on this machine).
    """

    def __init__(self, program: Program, host: Host, memory_limit: int) -> None:
        lib = self._lib = library()
        room.take(INSTANCE)
        handlers.hold()
        self.program = program
        self.host = host
        self._exports: dict[str, tuple[int, Extern, Any]] = {}
        self._readers: list[Extern] | None = None
        self._depth = 0
        self._entered = False
        self.stopped = False
        """Its code traps from now on; it is of no more use."""
        self.written = Written()
        self._raw = (c_uint32 * 64)()
        self._store = lib.store_new(program.engine.pointer, None, NO_FINALIZER)
        self._limit(memory_limit)
        self._context = lib.store_context(self._store)
        self._instance = (c_uint64 * 2)()
        trap = c_void_p()
        previous = getattr(local, "host", None)
        local.host = host
        try:
            error = lib.pre_instantiate(program.pre, self._context, self._instance, byref(trap))
            if trap.value:
                raise EngineError(str(lib.take_trap(trap.value)))
            lib.check(error)
            self._memory = self._export("memory", MEMORY)
            self.memory = host.memory = self.look()
            stops.arm(self.memory.address())
            keep_small(self.memory.address(), stops.POLL)
        except BaseException as error:
            lib.store_delete(self._store)
            self._store = None
            if isinstance(error, OSError):  # this process has no room for more mappings
                raise EngineError(str(error)) from error
            raise
        finally:
            local.host = previous
        host.instance = self

    def _limit(self, memory: int) -> None:
        # Bytes of memory, table elements, instances, tables, memories; -1 keeps the default.
        self._lib.store_limiter(self._store, min(memory, MAX_PAGES * PAGE), 1 << 20, -1, -1, -1)

    def belong(self, host: Host, memory_limit: int) -> None:
        """Give a used instance to another host, once it has been put back to what it was (reuse.py)."""
        self._limit(memory_limit)
        handlers.hold()
        self.host = host
        self.memory = host.memory = self.look()
        host.instance = self

    def look(self) -> Memory:
        """Its memory, whoever it belongs to."""
        return Memory(self._context, byref(self._memory, Extern.of.offset))

    def state(self) -> list[int]:
        """The values of the globals and the sizes of the tables that code can change (image/state.py); empty where the image does not say."""
        readers = self._readers
        if readers is None:
            readers = self._readers = []
            for prefix, kind in ((STATE_GLOBAL, GLOBAL), (STATE_TABLE, TABLE)):
                try:
                    for number in itertools.count():
                        readers.append(self._export(f"{prefix}{number}", kind))
                except KeyError:
                    continue
        value = (c_uint64 * 8)()  # as in global_value
        found: list[int] = []
        for extern in readers:
            if extern.kind == GLOBAL:
                self._lib.global_get(self._context, byref(extern, Extern.of.offset), value)
                found.append(int(value[1]) & MASK32)
            else:
                found.append(int(self._lib.table_size(self._context, byref(extern, Extern.of.offset))))
        return found

    def _export(self, name: str, kind: int) -> Extern:
        extern = Extern()
        encoded = name.encode()
        if not self._lib.export_get(self._context, self._instance, encoded, len(encoded), byref(extern)):
            raise KeyError(name)
        if extern.kind != kind:
            raise KeyError(f"{name} is an export of another kind")
        return extern

    def _known(self, name: str, kind: int) -> Any:
        """An export by reference, looked up once. Raises KeyError."""
        found = self._exports.get(name)
        if found is None:
            extern = self._export(name, kind)
            found = self._exports[name] = kind, extern, byref(extern, Extern.of.offset)
        if found[0] != kind:
            raise KeyError(f"{name} is an export of another kind")
        return found[2]

    def call(self, name: str, *arguments: int) -> int:
        """Call an exported function of 32-bit integers.

        Raises Trap when the guest stops, and whatever a host function raised below it.
        """
        function = self._known(name, FUNCTION)
        if self._store is None:
            raise Trap("the instance is closed")
        if self._depth >= _MAX_DEPTH:
            raise Trap("the guest re-entered itself too often")
        if self._depth == 0:
            _headroom(_HEADROOM)
            looked = self.written.looked
            seen = faults.count() if looked else 0
            # In this order, and kill() does it in the other: whoever comes second sees what the first did.
            self._entered = True
            if self.host.killed:
                self.stop()
        lib, host, raw = self._lib, self.host, self._raw
        slot = 0
        for argument in arguments:
            raw[slot] = argument & MASK32
            slot += 4
        trap = c_void_p()
        previous = getattr(local, "host", None)
        local.host = host
        self._depth += 1
        try:
            error = lib.call(self._context, function, raw, max(len(arguments), 1), byref(trap))
        finally:
            self._depth -= 1
            local.host = previous
            if self._depth == 0:
                self._entered = False
                if looked:
                    self.written.faults += faults.count() - seen
                elif self.written.looked:
                    self.written.forget()  # somebody looked meanwhile, and nobody counted since
        if error or trap.value:
            self._raise(error, trap.value)
        return int(raw[0])

    def stop(self) -> None:
        """Stop it if it runs. From any thread, while it is not being closed; `host.killed` is set before."""
        if self._entered:
            self.stopped = True
            stops.stop(self.memory.address())

    def _raise(self, error: int | None, trap: int | None) -> None:
        found = self._lib.take_trap(trap) if trap else Trap(self._lib.message_of_error(error or 0))
        failure = self.host.failure
        if failure is not None:
            self.host.failure = None
            raise failure
        raise found

    def global_value(self, name: str) -> int:
        """The value of an exported 32-bit global, unsigned."""
        value = (c_uint64 * 8)()  # wasmtime_val_t: a kind, then a union at offset 8
        self._lib.global_get(self._context, self._known(name, GLOBAL), value)
        return int(value[1]) & MASK32

    def table_size(self, name: str) -> int:
        """How many elements an exported table has."""
        return int(self._lib.table_size(self._context, self._known(name, TABLE)))

    def close(self) -> None:
        """Free everything. Must not run while the instance does."""
        store, self._store = self._store, None
        if store is not None:
            self.memory.release()
            self._exports.clear()
            self._lib.store_delete(store)
