"""A guest that runs can be stopped at any moment, wherever it is, and stopping one harms nobody else."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import wasmtime

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm import abi, stops
from safeexec_backends.wasm.fs_nodes import base_tree
from safeexec_backends.wasm.fs_tree import Quota
from safeexec_backends.wasm.functions import host_functions
from safeexec_backends.wasm.host import Host, Killed
from safeexec_backends.wasm.image.binary import FormatError, Module, i32_constant
from safeexec_backends.wasm.image.polls import polled

SIZE = 4 * abi.PAGE
READ = i32_constant(stops.POLL)[:-1] + b"\xfe\x12\x00\x00\x1a"
FUNCTIONS = host_functions()
SLEEP = FUNCTIONS["host", "sleep"]
# Functions that do not end, each in its own way.
ENDLESS = """
(module
  (import "host" "sleep" (func $sleep (param f64)))
  (memory (export "memory") 4 4)
  (table $t 2 funcref)
  (elem (i32.const 0) $twice $tail)
  (type $f (func (param i32)))
  (func (export "nothing") (loop $l (br $l)))
  (func (export "reads") (result i32) (local $s i32) (local $i i32)
    (loop $l
      (local.set $s (i32.add (local.get $s) (i32.load (i32.and (local.get $i) (i32.const 1020)))))
      (local.set $i (i32.add (local.get $i) (i32.const 4)))
      (br_if $l (i32.ne (local.get $s) (i32.const 1))))
    (local.get $s))
  (func (export "inner") (result i32) (local $i i32) (local $s i32)
    (loop $outer
      (local.set $i (i32.const 1000))
      (loop $l
        (local.set $s (i32.xor (local.get $s) (i32.load (local.get $i))))
        (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (br_if $outer (i32.eqz (local.get $s))))
    (local.get $s))
  (func $twice (param $n i32)
    (if (local.get $n) (then
      (call $twice (i32.sub (local.get $n) (i32.const 1)))
      (call $twice (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "recursion") (call $twice (i32.const 62)))
  (func $tail (param $n i32) (return_call_indirect $t (type $f) (local.get $n) (i32.const 1)))
  (func (export "tail_calls") (call $tail (i32.const 1)))
  (func (export "fills") (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const 262144)) (br $l)))
  (func (export "copies") (loop $l (memory.copy (i32.const 0) (i32.const 4) (i32.const 262140)) (br $l)))
  (func (export "jumps") (param $x i32)
    (loop $l (block $b (block $a (br_table $a $b $l (local.get $x)))) (br $l)))
  (func (export "sleeps") (loop $l (call $sleep (f64.const 100000)) (br $l)))
  (func (export "poll") (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func (export "write") (param i32) (i32.store8 (local.get 0) (i32.const 1)))
  (func (export "copy_poll") (memory.copy (i32.const 0) (i32.const -65536) (i32.const 16)))
  (func (export "fill_poll") (memory.fill (i32.const -65536) (i32.const 0) (i32.const 16)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
)
"""
WAYS = ("nothing", "reads", "inner", "recursion", "tail_calls", "fills", "copies", "jumps", "sleeps")


@pytest.fixture(scope="module")
def program() -> abi.Program:
    engine = abi.Engine(1 << 20)
    return abi.Program(engine, engine.load_wasm(bytes(wasmtime.wat2wasm(ENDLESS))), {("host", "sleep"): SLEEP})


def made(program: abi.Program) -> Host:
    host = Host(base_tree({}), Quota(), SIZE)
    abi.Instance(program, host, SIZE)
    return host


@pytest.fixture
def host(program: abi.Program) -> Iterator[Host]:
    host = made(program)
    yield host
    host.close()


def outcome(host: Host, name: str, ended: list[BaseException], *arguments: int) -> None:
    try:
        host.instance.call(name, *arguments)
    except BaseException as error:
        ended.append(error)


@pytest.mark.parametrize("name", WAYS)
def test_code_without_an_end_is_stopped(host: Host, name: str) -> None:
    ended: list[BaseException] = []
    arguments = (2,) if name == "jumps" else ()
    thread = threading.Thread(target=outcome, args=(host, name, ended, *arguments), daemon=True)
    thread.start()
    while not host.instance._entered:
        time.sleep(0)
    assert thread.is_alive()
    host.kill()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(ended[0], abi.Trap | Killed)


@pytest.mark.parametrize("name", ("nothing", "recursion", "fills", "sleeps"))
def test_what_was_killed_before_does_not_begin(host: Host, name: str) -> None:
    host.kill()
    ended: list[BaseException] = []
    outcome(host, name, ended)
    assert isinstance(ended[0], abi.Trap | Killed)


def test_stopping_one_leaves_others_running(program: abi.Program) -> None:
    hosts = [made(program) for _ in range(8)]
    ended: list[BaseException] = []
    threads = [
        threading.Thread(target=outcome, args=(host, way, ended), daemon=True)
        for host, way in zip(hosts, ("fills", "reads") * 4, strict=True)
    ]
    for thread in threads:
        thread.start()
    for host in hosts:
        while not host.instance._entered:
            time.sleep(0)
    for number, (host, thread) in enumerate(zip(hosts, threads, strict=True)):
        assert thread.is_alive() and len(ended) == number
        host.kill()
        thread.join(60)
        assert not thread.is_alive()
        host.close()


def test_kills_amid_the_engines_own_copying_harm_nobody(program: abi.Program) -> None:
    """The kill comes at a hundred different moments, most of them inside memory.fill and memory.copy, which are the engine's code."""
    for number in range(100):
        host = made(program)
        ended: list[BaseException] = []
        thread = threading.Thread(target=outcome, args=(host, ("fills", "copies")[number % 2], ended), daemon=True)
        thread.start()
        while not host.instance._entered:
            time.sleep(0)
        host.kill()
        thread.join(60)
        assert isinstance(ended[0], abi.Trap)
        host.close()


def test_the_poll_page_can_be_read_and_nothing_else(host: Host) -> None:
    call = host.instance.call
    assert call("poll", stops.POLL) == 0
    for name, *arguments in (("write", stops.POLL), ("copy_poll",), ("fill_poll",), ("poll", stops.POLL - 1)):
        with pytest.raises(abi.Trap):
            call(name, *arguments)  # type: ignore[arg-type]
    with pytest.raises(abi.Fault):
        host.memory.read(stops.POLL, 1)
    assert call("poll", stops.POLL) == 0


def test_no_memory_grows_to_the_poll_page() -> None:
    wasm = wasmtime.wat2wasm(
        '(module (memory (export "memory") 1 65536)'
        ' (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))'
    )
    engine = abi.Engine(1 << 20)
    program = abi.Program(engine, engine.load_wasm(bytes(wasm)), {})
    instance = abi.Instance(program, Host(base_tree({}), Quota(), 1 << 32), 1 << 32)
    assert instance.call("grow", 65535) == abi.MASK32
    assert instance.call("grow", 65534) == 1
    assert instance.call("grow", 1) == abi.MASK32
    instance.close()


def test_every_function_and_every_loop_polls() -> None:
    source = bytes(wasmtime.wat2wasm(ENDLESS))
    before, after = Module(source).read_bodies(), Module(polled(source)).read_bodies()
    for old, new in zip(before, after, strict=True):
        assert new.replace(READ, b"") == old
        assert new.count(READ) == 1 + old.count(b"\x03\x40")


def test_handlers_of_exceptions_are_walked_over() -> None:
    body = """
      (block $h (result i32)
        (try_table (result i32) (catch $e $h) (catch_all 1)
          (loop $l (result i32) (throw $e (i32.const 5)))))
    """
    source = f"(module (memory 1) (tag $e (param i32)) (func (result i32) (block (return {body})) (i32.const 9)))"
    wasm = polled(bytes(wasmtime.wat2wasm(source)))
    assert wasm.count(READ) == 2
    assert abi.Engine(1 << 20).load_wasm(bytes(wasmtime.wat2wasm(source)))


def test_code_that_is_not_known_is_refused() -> None:
    unknown = bytes(wasmtime.wat2wasm("(module (memory 1) (func (drop (i32.const 1))))"))
    damaged = unknown.replace(b"\x41\x01\x1a\x0b", b"\x41\x01\xff\x0b")
    assert damaged != unknown
    with pytest.raises(FormatError, match="0xff"):
        polled(damaged)
    with pytest.raises(FormatError, match="memory"):
        polled(bytes(wasmtime.wat2wasm("(module (func (loop (br 0))))")))
    with pytest.raises(abi.EngineError, match="memory"):
        abi.Engine(1 << 20).load_wasm(bytes(wasmtime.wat2wasm("(module (func (loop (br 0))))")))


HOSTILE = {
    "no loop at all": "s = slice(1, 1, 1)\nfor _ in range(60): s = slice(s, s, s)\nhash(s)",
    "catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "copies": "b = bytearray(32 << 20)\nwhile True:\n    try:\n        while True: c = bytes(b)\n    except BaseException: pass",
    "one long call": "sum(range(10**12))",
    "in an iterator": "import collections, itertools\ncollections.deque(itertools.count(), maxlen=0)",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_guest_that_cannot_be_interrupted_is_stopped(in_process: Executor, what: str) -> None:
    with in_process.session(policy=Policy(limits=Limits(time=0.3))) as session:
        assert session.run("kept = 42").error is None
        result = session.run(HOSTILE[what])
        assert result.error is not None and result.error.kind == "time"
        assert result.rolled_back and session.run("kept").value == 42


def test_a_guest_that_was_stopped_in_time_is_not_used_again(in_process: Executor) -> None:
    session = in_process.session()
    host = session._guest._host  # type: ignore[attr-defined]
    session.run("1")
    host.instance._entered = True  # as if it were still running when somebody else closes it
    session.close()
    assert host.instance.stopped
    assert host.instance not in session._guest._runtime.spares._kept  # type: ignore[attr-defined]


PROGRAM = """
import faulthandler, threading
from safeexec import Executor, Limits, Policy
with Executor("wasm", workers=0, policy=Policy(rollback="never")) as executor:
    with executor.session() as other:
        assert other.run("1 + 1").value == 2
        started = threading.Event()
        def stop():
            started.wait(60)
            faulthandler.enable()
            session.kill()
        thread = threading.Thread(target=stop)
        session = executor.session()
        thread.start()
        result = session.run("print(1)\\nwhile True:\\n    try:\\n        while True: pass\\n    except BaseException: pass", on_output=lambda _: started.set())
        thread.join()
        print(result.error.kind, other.run("40 + 2").value)
"""


def test_a_host_whose_handlers_were_taken_away_meanwhile_survives_a_kill() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110)
    assert (ended.returncode, ended.stdout) == (0, "crash 42\n"), ended.stderr[-2000:]


def test_no_interrupt_is_lost_between_two_looks() -> None:
    """The guest looks for one some millions of times in a second; one of two hundred came between its look and the word it took away for it."""
    code = "try:\n    print('begun')\n    while True:\n        pass\nfinally:\n    print('cleaned')"
    said = []
    with Executor("wasm") as executor, executor.session(policy=Policy(limits=Limits(time=30))) as session:
        for _ in range(800):
            begun = threading.Event()
            step = threading.Thread(
                target=lambda begun: said.append(session.run(code, on_output=lambda *_: begun.set()).stdout),
                args=(begun,),
            )
            step.start()
            assert begun.wait(20)
            session.interrupt()
            step.join()
    assert [text for text in said if text != "begun\ncleaned\n"] == []
