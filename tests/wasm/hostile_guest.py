"""A guest module, written in WAT, that passes whatever it is told to every host function."""

from __future__ import annotations

from collections.abc import Sequence

import wasmtime

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.fs_nodes import base_tree
from safeexec_backends.wasm.fs_tree import Quota
from safeexec_backends.wasm.functions import host_functions
from safeexec_backends.wasm.host import Exited, Host, Killed, ProtocolViolation

TYPES = {"i": "i32", "l": "i64", "d": "f64", "": ""}
STOPS = (abi.Trap, abi.Fault, Exited, Killed, ProtocolViolation)
"""What may come out of a hostile call besides a number: the guest was stopped."""
PAGES = 2
SIZE = PAGES * abi.PAGE
FUNCTIONS = host_functions()


def words(parameters: str) -> int:
    """How many 32-bit words the parameters of a thunk take."""
    return sum(1 if kind == "i" else 2 for kind in parameters)


def _thunk(namespace: str, name: str, parameters: str, result: str) -> tuple[str, str]:
    types = " ".join(TYPES[kind] for kind in parameters)
    signature = (f"(param {types})" if types else "") + (f" (result {TYPES[result]})" if result else "")
    arguments, word = [], 0
    for kind in parameters:
        if kind == "i":
            arguments.append(f"(local.get {word})")
            word += 1
            continue
        wide = (
            f"(i64.or (i64.extend_i32_u (local.get {word})) "
            f"(i64.shl (i64.extend_i32_u (local.get {word + 1})) (i64.const 32)))"
        )
        arguments.append(wide if kind == "l" else f"(f64.reinterpret_i64 {wide})")
        word += 2
    call = f"(call ${name} {' '.join(arguments)})"
    after = {"i": "", "l": "i32.wrap_i64", "d": "i64.reinterpret_f64 i32.wrap_i64", "": "i32.const 0"}[result]
    parameters_ = "(param" + " i32" * word + ")" if word else ""
    return (
        f'(import "{namespace}" "{name}" (func ${name} {signature}))',
        f'(func (export "{name}") {parameters_} (result i32) {call} {after})',
    )


def module() -> bytes:
    """The guest. `set_allocator(pointer, reenter)` chooses what its memalign returns, and whether it maps again first."""
    thunks = [_thunk(namespace, name, call[1], call[2]) for (namespace, name), call in FUNCTIONS.items()]
    return bytes(
        wasmtime.wat2wasm(
            "(module "
            + " ".join(thunk[0] for thunk in thunks)
            + f'(memory (export "memory") {PAGES} 16) (global (export "tzname") i32 (i32.const 512)) (global $at (mut i32) (i32.const 0)) (global $deep (mut i32) (i32.const 0))'
            + """
            (func (export "set_allocator") (param i32 i32) (global.set $at (local.get 0)) (global.set $deep (local.get 1)))
            (func (export "emscripten_builtin_memalign") (param i32 i32) (result i32)
              (if (i32.eqz (global.get $deep)) (then (return (global.get $at))))
              (if (i32.eq (global.get $deep) (i32.const 1))
                (then (drop (call $fd_close (i32.const 3))) (return (global.get $at))))
              (drop (call $_mmap_js (i32.const 1) (i32.const 3) (i32.const 1) (i32.const 3) (i64.const 0) (i32.const 0) (i32.const 0)))
              (global.get $at))
            """
            + " ".join(thunk[1] for thunk in thunks)
            + ")"
        )
    )


class Unstopped(abi.Instance):
    """An instance whose killed host lets it run on: until it waits."""

    def stop(self) -> None:
        pass


class Hostile:
    """One instance of the guest, with some open files to aim at."""

    _program: abi.Program | None = None

    def __init__(self, killed: bool = True) -> None:
        if Hostile._program is None:
            engine = abi.Engine(1 << 20)
            Hostile._program = abi.Program(engine, engine.load_wasm(module()), FUNCTIONS)
        self.frames: list[bytes] = []
        base = base_tree({"lib/file": b"base", "lib/sub/other": b"x"})
        self.host = Host(base, Quota(1 << 20, 50, 16), 16 * abi.PAGE, ("one",), on_frame=self._frame)
        self.instance = Unstopped(Hostile._program, self.host, 16 * abi.PAGE)
        files = self.host.files
        assert files.open("/tmp/a", 0o102, 0o644) == 3
        assert files.open("/tmp", 0o200000, 0) == 4
        assert files.open("/lib/file", 0, 0) == 5
        files.resize(files.files[3].node, 5000)  # type: ignore[arg-type]
        self.host.post([b"reply"])
        # What would wait must not: a killed guest stops at the first wait.
        self.host.killed = killed

    def _frame(self, parts: Sequence[bytes]) -> None:
        self.frames.append(b"".join(parts))

    def call(self, name: str, *arguments: int) -> int | None:
        """The result of a call, or None if it stopped the guest. Anything else that is raised is a host fault."""
        try:
            return self.instance.call(name, *arguments)
        except STOPS:
            return None

    def close(self) -> None:
        self.host.close()
