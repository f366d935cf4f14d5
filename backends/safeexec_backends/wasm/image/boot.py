"""Start CPython in an instance of the linked module, the way Pyodide's JavaScript would."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any, Final

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.fs_nodes import Directory, Node
from safeexec_backends.wasm.fs_tree import Quota
from safeexec_backends.wasm.functions import host_functions
from safeexec_backends.wasm.host import Host
from safeexec_backends.wasm.limits import STACK_PROTECTION
from safeexec_backends.wasm.syscalls import HOST

PROVIDED: Final = frozenset(name for namespace, name in host_functions() if namespace != HOST)
POINTERS: Final = ("safeexec_send", "safeexec_receive", "safeexec_wait", "safeexec_alarm")
STDLIB: Final = "/lib/python314.zip"
SITE: Final = "/lib/site-packages"
_METH_NOARGS, _METH_O, _METH_FASTCALL = 4, 8, 0x80
_FUNCTIONS = (
    ("send", "safeexec_send", _METH_FASTCALL),
    ("receive", "safeexec_receive", _METH_NOARGS),
    ("wait", "safeexec_wait", _METH_O),
    ("alarm", "safeexec_alarm", _METH_FASTCALL),
)
_EPOCH: Final = 1_767_225_600 * 10**9  # 2026-01-01, in nanoseconds
HANDLER_WORD: Final = 68  # see helpers.wat
_MAX_OUTPUT: Final = 1 << 20
"""Bytes of output of which the last are kept: a package may print without end while it is imported."""
# Built-in modules that exist to reach JavaScript or to test CPython by crashing it.
_FORBIDDEN = frozenset(
    b"_pyodide_core _remote_debugging _testbuffer _testcapi _testclinic _testclinic_limited _testinternalcapi"
    b" _testlimitedcapi _xxtestfuzz xxsubtype".split()
)


class BootError(Exception):
    """The interpreter did not start, or code that the builder ran in it failed."""


class _Still(Host):
    """A host on which nothing differs from one build to the next: the same image everywhere, so that a snapshot of a session, which is what
    differs from its image, can be restored on another machine. What sessions draw is their own host's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        ticks = itertools.count(_EPOCH, 1000)
        self.clocks = dict.fromkeys(self.clocks, ticks.__next__)
        self.random = random.Random(0).randbytes
        numbers = itertools.count(1)
        pending: list[Node] = [self.files.root]
        while pending:
            node = pending.pop()
            node.ino = next(numbers)
            node.mtime = 0 if node.readonly else _EPOCH
            if isinstance(node, Directory):
                # What differs from machine to machine, the zone database, is numbered last.
                pending += [child for name, child in sorted(node.entries.items(), key=lambda i: (i[0] != "usr", i[0]))]


class Interpreter:
    """A CPython in an instance, driven through its C API."""

    def __init__(self, program: abi.Program, base: Mapping[str, Directory], missing: tuple[str, ...]) -> None:
        self.out = bytearray()
        memory = 512 << 20
        self.host = _Still(base, Quota(bytes=512 << 20, inodes=100_000), memory, missing, on_output=self._output)
        self.instance = abi.Instance(program, self.host, memory)
        self._strings: dict[str, int] = {}

    def _output(self, _stream: int, data: bytes) -> None:
        self.out += data
        del self.out[:-_MAX_OUTPUT]

    def string(self, text: str) -> int:
        """A C string in the guest's memory, kept for ever."""
        if text not in self._strings:
            data = text.encode() + b"\0"
            pointer = self._strings[text] = self.instance.call("malloc", len(data))
            self.host.memory.write(pointer, data)
        return self._strings[text]

    def start(self, paths: tuple[str, ...]) -> None:
        """Initialise CPython. Raises BootError with its own message."""
        call, memory = self.instance.call, self.host.memory
        call("__wasm_call_ctors")
        self._remove_forbidden_modules()
        config = call("PyInitConfig_Create")
        numbers = {
            "utf8_mode": 1, "isolated": 1, "site_import": 0, "install_signal_handlers": 0, "write_bytecode": 0,
            "buffered_stdio": 0, "parse_argv": 0,
        }  # fmt: skip
        names = {
            "program_name": "python3", "executable": "", "prefix": "/", "exec_prefix": "/", "base_prefix": "/",
            "base_exec_prefix": "/",
        }  # fmt: skip
        for name, number in numbers.items():
            self._check(config, call("PyInitConfig_SetInt", config, self.string(name), number))
        for name, text in names.items():
            self._check(config, call("PyInitConfig_SetStr", config, self.string(name), self.string(text)))
        array = call("malloc", 4 * len(paths))
        for number, path in enumerate(paths):
            memory.set_u32(array + 4 * number, self.string(path))
        option = self.string("module_search_paths")
        self._check(config, call("PyInitConfig_SetStrList", config, option, len(paths), array))
        self._check(config, call("Py_InitializeFromInitConfig", config))
        call("PyInitConfig_Free", config)

    def _check(self, config: int, status: int) -> None:
        if status == 0:
            return
        pointer = self.instance.call("malloc", 4)
        self.instance.call("PyInitConfig_GetError", config, pointer)
        text = self.host.memory.string(self.host.memory.u32(pointer), 4000) or b""
        raise BootError(f"CPython did not start: {text.decode(errors='replace')} {self.output()}")

    def _remove_forbidden_modules(self) -> None:
        # struct _inittab {const char *name; PyObject *(*init)(void);}, ended by a null name
        memory = self.host.memory
        table = memory.u32(self.instance.global_value("PyImport_Inittab"))
        entries = []
        pointer = table
        while name := memory.u32(pointer):
            if memory.string(name, 200) not in _FORBIDDEN:
                entries.append(memory.read(pointer, 8))
            pointer += 8
        memory.write(table, b"".join(entries) + bytes(pointer + 8 - table - 8 * len(entries)))

    def listen_for_signals(self) -> None:
        """Make the evaluation loop look at the signal word (helpers.wat)."""
        self.host.memory.set_u32(self.instance.global_value("Py_EMSCRIPTEN_SIGNAL_HANDLING"), 1)

    def add_device(self, table: Mapping[str, int]) -> None:
        """Make the module `_safeexec_device`, whose functions are WebAssembly."""
        call, memory = self.instance.call, self.host.memory
        module = call("PyImport_AddModule", self.string("_safeexec_device"))
        for name, helper, flags in _FUNCTIONS:
            definition = call("malloc", 16)  # struct PyMethodDef {name, function, flags, doc}
            for offset, word in enumerate((self.string(name), table[helper], flags, 0)):
                memory.set_u32(definition + 4 * offset, word)
            function = call("PyCMethod_New", definition, 0, 0, 0)
            if not function or call("PyObject_SetAttrString", module, self.string(name), function) & abi.MASK32:
                raise BootError(f"_safeexec_device.{name} could not be made")

    def protect_stack(self) -> None:
        """Tell CPython how much of its stack it may use before it raises RecursionError."""
        base = self.instance.call("emscripten_stack_get_base")
        state = self.instance.call("PyThreadState_Get")
        low = base - STACK_PROTECTION
        if self.instance.call("PyUnstable_ThreadState_SetStackProtection", state, low, STACK_PROTECTION):
            raise BootError("the stack protection was refused")

    def fill_holes(self) -> int:
        """Allocate every hole in the heap for good, so that sessions allocate side by side at its top; the bytes that cost.

        A session would otherwise scatter its objects over the holes, and make a page of its own of each.
        """
        call = self.instance.call
        large = call("malloc", 1 << 20)
        top = large
        call("free", large)
        filled = 0
        for size in (1 << 16, 1 << 14, 1 << 12, 2048, 1024, *range(1016, 0, -8)):
            while (pointer := call("malloc", size)) < top:
                if pointer == 0:
                    raise BootError("no memory left to fill holes")
                filled += size
            call("free", pointer)
        return filled

    def reserve(self, start: int, end: int) -> None:
        """Take the first bytes of the heap, before anything is allocated: libraries' data is linked to lie there. Raises BootError."""
        top = self.instance.call("sbrk", 0)
        if top > start or (self.instance.call("sbrk", end - top) & abi.MASK32) != top:
            raise BootError("the heap does not begin where the libraries were linked to")

    def run(self, code: str) -> str:
        """Run a program; return what it printed. Raises BootError with its traceback."""
        data = code.encode() + b"\0"
        pointer = self.instance.call("malloc", len(data))
        self.host.memory.write(pointer, data)
        status = self.instance.call("PyRun_SimpleStringFlags", pointer, 0)
        self.instance.call("free", pointer)
        text = self.output()
        if status:
            raise BootError(text.strip())
        return text

    def output(self) -> str:
        """What was written to stdout and stderr since the last call."""
        text = self.out.decode(errors="replace")
        self.out.clear()
        return text
