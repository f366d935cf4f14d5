"""An instance that served one session serves another: nothing of the first may be left, and what cannot be vouched for is thrown away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import wasmtime

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm import WasmBackend, abi
from safeexec_backends.wasm.image.binary import FormatError, Module
from safeexec_backends.wasm.image.state import State, changeable
from safeexec_backends.wasm.instance import Runtime
from safeexec_backends.wasm.pages import Finder

LEAVE_TRACES = """
import builtins, gc, os, random, sys, types, decimal, locale
builtins.trace = "T" * 100_000
sys.modules["trace"] = types.ModuleType("trace")
sys.path.insert(0, "/trace")
sys.setrecursionlimit(77)
os.environ["TRACE"] = "1"
os.umask(0)
os.chdir("/tmp")
open("trace", "w").write("trace" * 1000)
kept_open = open("/sandbox/open", "w")
random.seed(1)
decimal.getcontext().prec = 3
gc.disable()
sys.stdout.trace = 1
del builtins.divmod
int.__doc__
class Trace: pass
traces = [Trace() for _ in range(1000)]
print("x" * 10)
"""
LOOK = """
import builtins, decimal, gc, os, random, sys
[hasattr(builtins, "trace"), "trace" in sys.modules, "/trace" in sys.path, sys.getrecursionlimit() == 77, "TRACE" in os.environ,
 os.getcwd() != "/sandbox", os.listdir("/tmp"), os.listdir("."), decimal.getcontext().prec == 3, gc.isenabled() is False,
 hasattr(sys.stdout, "trace"), hasattr(builtins, "divmod") is False, "traces" in globals(), random.random() == 0.13436424411240122]
"""
NOTHING = [False, False, False, False, False, False, [], [], False, False, False, False, False, False]


@pytest.fixture
def executor(runtime: Runtime) -> Iterator[Executor]:
    with Executor(WasmBackend(Policy(), workers=0)) as executor:
        yield executor


def kept(runtime: Runtime) -> list[abi.Instance]:
    return runtime.spares._kept


def test_an_instance_is_used_again_and_holds_nothing_of_the_last_session(executor: Executor, runtime: Runtime) -> None:
    assert executor.run(LEAVE_TRACES).error is None
    (first,) = kept(runtime)
    assert bytes(first.look().view) == bytes(runtime.unused().memory.view)
    assert executor.run(LOOK).value == NOTHING
    assert kept(runtime) == [first]


def test_the_same_in_a_worker() -> None:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        for _ in range(3):
            assert executor.run(LEAVE_TRACES).error is None
            assert executor.run(LOOK).value == NOTHING


def test_policy_and_tools_of_one_session_are_not_the_next_ones(executor: Executor) -> None:
    def secret() -> str:
        return "secret"

    tight = Policy(limits=Limits(memory=8 << 20, output=10, disk=1000), imports=("math",), env={"A": "1"})
    with executor.session(tools=[secret], policy=tight) as session:
        assert session.run("secret()").value == "secret"
        assert session.run("import os").error is not None
    result = executor.run(
        "import os\nprint('x' * 100)\nopen('f', 'wb').write(bytes(5000))\nbig = bytes(20 << 20)\n('secret' in globals(), 'A' in os.environ)"
    )
    assert (result.error, result.value, len(result.stdout)) == (None, (False, False), 101)
    wide = executor.run("import os\nbig = bytes(20 << 20)\nlen(big)", policy=Policy(limits=Limits(memory=8 << 20)))
    assert wide.error is not None and wide.error.kind == "memory"


def test_every_session_draws_its_own_random_numbers(executor: Executor) -> None:
    code = "import random, secrets, uuid\n(random.random(), secrets.token_hex(), str(uuid.uuid4()))"
    drawn = [executor.run(code).value for _ in range(20)]
    assert len({number for row in drawn for number in row}) == 60


@pytest.mark.parametrize(
    "code",
    [
        "x = bytes(64 << 20)",  # grown: memory does not shrink
        "x = [bytearray(b'y' * 4096) for _ in range(800)]",  # more pages than are worth it
        "import os\nos._exit(1)",
        "import ctypes\nctypes.string_at(0xFFFFFFF0, 4)",
    ],
)
def test_what_was_grown_or_ended_out_of_order_is_not_used_again(
    executor: Executor, runtime: Runtime, code: str
) -> None:
    executor.run(code)
    assert kept(runtime) == []
    assert executor.run(LOOK).value == NOTHING


def test_a_session_killed_while_it_runs_leaves_no_instance(executor: Executor, runtime: Runtime) -> None:
    session = executor.session()
    started = threading.Event()
    timer = threading.Thread(target=lambda: (started.wait(30), session.kill()))
    timer.start()
    result = session.run("print(1, flush=True)\nwhile True: pass", on_output=lambda _: started.set())
    timer.join()
    session.close()
    assert result.error is not None
    assert kept(runtime) == []


@pytest.mark.parametrize("change", [lambda i: i.call("setTempRet0", 5)])
def test_a_changed_global_is_noticed(
    executor: Executor, runtime: Runtime, change: Callable[[abi.Instance], object]
) -> None:
    session = executor.session()
    session.run("1")
    change(session._guest._host.instance)  # type: ignore[attr-defined]
    session.close()
    assert kept(runtime) == []


def test_a_late_interrupt_does_not_reach_the_next_session(executor: Executor, runtime: Runtime) -> None:
    session = executor.session()
    session.run("1")
    guest = session._guest
    host = guest._host  # type: ignore[attr-defined]
    session.close()
    (instance,) = kept(runtime)
    with executor.session() as other:
        other.run("1")
        assert other._guest._host.instance is instance  # type: ignore[attr-defined]
        guest.interrupt()
        guest.kill()
        host.interrupt()
        assert host.memory.size == 0
        with pytest.raises(abi.Fault):
            host.memory.u32(64)
        assert other.run("sum(range(1000))").value == 499500


def test_sessions_of_many_threads_at_once_share_nothing(executor: Executor) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(15):
            code = f"seen = globals().get('mine')\nmine = {number * 100 + turn}\n(seen, mine)"
            result = executor.run(code)
            if result.value != (None, number * 100 + turn):
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_both_ways_to_find_written_pages_agree(runtime: Runtime) -> None:
    memory = runtime.unused().memory
    finders = Finder(), Finder()
    assert finders[0].ready() and finders[1].ready()
    finders[1]._scans = False
    with Executor(WasmBackend(Policy(), workers=0)) as executor, executor.session() as session:
        session.run("x = list(range(10000))")
        memory = session._guest._host.memory  # type: ignore[attr-defined]
        one, two = (f.written(memory.address(), memory.size) for f in finders)
        assert one == two and len(one) > 5


def module(text: str) -> Module:
    return Module(bytes(wasmtime.wat2wasm(f"(module {text})")))


def test_what_code_can_change_is_read_off_the_code() -> None:
    text = """(memory 1) (table 3 funcref) (table 0 externref) (global $a (mut i32) (i32.const 0)) (global $b (mut i32) (i32.const 0))
      (global $c (mut i32) (i32.const 0))
      (func (global.set $b (i32.const 36)) (block (br_table 0 0 (i32.const 0))) (i64.store (i32.const 0) (i64.const 9343)))
      (func (param externref) (drop (table.grow 1 (local.get 0) (i32.const 1))) (global.set $c (i32.const 1)))"""
    assert changeable(module(text)) == State((1, 2), (1,))


@pytest.mark.parametrize(
    "text",
    [
        "(table 3 funcref) (func (table.set 0 (i32.const 0) (ref.null func)))",
        "(table 3 funcref) (func (drop (table.grow 0 (ref.null func) (i32.const 1))))",
        "(table 3 funcref) (func (table.fill 0 (i32.const 0) (ref.null func) (i32.const 1)))",
        "(table 3 funcref) (func (table.copy 0 0 (i32.const 0) (i32.const 0) (i32.const 1)))",
        "(table 3 externref) (func (param externref) (table.set 0 (i32.const 0) (local.get 0)))",
        '(memory 1) (data $d "x") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1)))',
        '(memory 1) (data $d "x") (func (data.drop $d))',
        "(table 3 funcref) (elem $e func 0) (func (elem.drop $e))",
    ],
)
def test_code_whose_changes_cannot_be_seen_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        changeable(module(text))
