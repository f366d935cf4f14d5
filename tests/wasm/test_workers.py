"""Worker processes: who dies with whom, what is left behind, and which walls stand around them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, wire
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.testing.base import eventually
from safeexec_backends.wasm import WasmBackend
from safeexec_backends.wasm.agreed import AHEAD, GREETING, LAST, WORD
from safeexec_backends.wasm.process import WorkerProcess
from safeexec_backends.wasm.session_host import SessionHost
from safeexec_backends.wasm.worker_guest import WorkerGuest


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    # See test_worker_death.py for what is kept.
    with Executor(WasmBackend(Policy(), workers=2, keep_bytes=0)) as executor:
        yield executor


def worker_of(session: object) -> int:
    """The process id of a session's worker."""
    guest = session._guest  # type: ignore[attr-defined]
    assert isinstance(guest, WorkerGuest)
    return guest.worker.pid


def gone(pid: int) -> bool:
    """Whether a process ends."""
    return eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_sessions_are_spread_over_the_workers(executor: Executor) -> None:
    sessions = [executor.session() for _ in range(4)]
    pids = [worker_of(session) for session in sessions]
    assert len(set(pids)) == 2 and pids.count(pids[0]) == 2
    for session in sessions:
        session.close()


def test_worker_killed_from_outside_takes_only_its_own_sessions(executor: Executor) -> None:
    first, second = executor.session(), executor.session()
    assert worker_of(first) != worker_of(second)
    first.run("x = 6")
    second.run("x = 7")
    os.kill(worker_of(first), signal.SIGKILL)
    result = first.run("1")
    assert result.error is not None and result.error.kind == "crash" and "died" in result.error.message
    assert second.run("x").value == 7
    with executor.session() as third:  # in a new worker
        assert third.run("2").value == 2
    first.close()
    second.close()


def test_worker_killed_in_the_middle_of_a_step(executor: Executor) -> None:
    session = executor.session()
    pid = worker_of(session)
    timer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    timer.start()
    result = session.run("while True:\n    pass")
    timer.join()
    assert result.error is not None and result.error.kind == "crash"
    assert executor.run("3").value == 3
    session.close()


def test_zygote_killed_from_outside_is_replaced() -> None:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        assert executor.run("1").value == 1
        pool = executor._backend._pool  # type: ignore[attr-defined]
        os.kill(pool._zygote._process.pid, signal.SIGKILL)
        assert gone(worker_of_pool(pool))
        assert executor.run("2").value == 2


def worker_of_pool(pool: object) -> int:
    """The process id of a pool's only worker."""
    return int(pool._workers[0].pid)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "code",
    [
        "x = iter([1])\nfor _ in range(300_000):\n    x = map(abs, x)\nnext(x)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0xFFFFFFF0)",
    ],
)
def test_guest_that_crashes_leaves_its_worker_alive(executor: Executor, code: str) -> None:
    with executor.session() as other:
        with executor.session() as neighbour:
            pids = {worker_of(other), worker_of(neighbour)}
        other.run("x = 1")
        result = executor.run(code)
        assert result.error is not None and result.error.kind == "crash"
        assert other.run("x").value == 1
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)


def test_session_of_its_own_worker() -> None:
    with Executor(WasmBackend(Policy(), isolation="session")) as executor:
        first, second = executor.session(), executor.session()
        pids = worker_of(first), worker_of(second)
        assert pids[0] != pids[1]
        assert executor.isolation["process"].active
        first.close()
        assert gone(pids[0])
        assert second.run("1").value == 1
        second.close()
    assert gone(pids[1])


def test_nothing_is_left_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    executor = Executor(WasmBackend(Policy(), workers=2))
    sessions = [executor.session() for _ in range(3)]
    pids = {worker_of(session) for session in sessions}
    pool = executor._backend._pool  # type: ignore[attr-defined]
    zygote = pool._zygote._process.pid
    runner = threading.Thread(target=lambda: sessions[0].run("while True:\n    pass"))
    runner.start()
    executor.close()
    runner.join(5)
    assert not runner.is_alive()
    assert all(map(gone, pids)) and gone(zygote)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))


def test_worker_has_no_network_no_files_no_capabilities(executor: Executor) -> None:
    with executor.session() as session:
        session.run("1")
        pid = worker_of(session)
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
        assert "0" not in status["Uid"].split()
        for namespace in ("net", "mnt", "pid", "ipc", "uts", "user"):
            assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")
        # Every thread: one that was started before the walls would stand outside them.
        for task in Path(f"/proc/{pid}/task").iterdir():
            assert "Seccomp:\t2" in (task / "status").read_text()
        open_files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        allowed = ("socket:", "/dev/null", "anon_inode:[event", "pipe:", "/null")
        image = [name for name in open_files if not name.startswith(allowed)]
        assert all(name.endswith(("image.cwasm", "/pagemap", "/maps")) or "memfd" in name for name in image), open_files


def test_frames_that_are_no_frames_end_the_session(executor: Executor) -> None:
    code = """
import gc
device = display.__self__._channel.send.__globals__["device"]
device.send(b"\\xff\\xff\\xff\\xff garbage")
"""
    with executor.session() as other:
        result = executor.run(code)
        assert result.error is not None and result.error.kind == "protocol"
        assert other.run("1").value == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_forged_closing_frame_gains_nothing(workers: int) -> None:
    code = """
channel = display.__self__._channel
channel.send({"t": "done", "id": 2, "v": "forged"})
1
"""
    with Executor(WasmBackend(Policy(), workers=workers)) as executor:
        with executor.session() as session:
            first = session.run(code)
            assert first.value is None and first.error is not None and first.error.kind == "protocol"
            # The real closing frame is still to come: the next step must not be answered by it.
            assert session.closed or (first.rolled_back and session.run("2").value == 2)
        assert executor.run("3").value == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_forged_closing_frame_of_the_right_number_answers_its_own_step_at_most(workers: int) -> None:
    code = """
import sys
frame = sys._getframe()
while type(header := frame.f_locals.get("header")) is not dict or header.get("t") != "run": frame = frame.f_back
display.__self__._channel.send({"t": "done", "id": header["id"], "v": "forged"})
1
"""
    with Executor(WasmBackend(Policy(), workers=workers)) as executor:
        with executor.session() as session:
            first = session.run(code)
            assert first.error is not None or first.value == "forged", "a guest may lie about itself"
            second = session.run("2")
            assert second.value == 2 or (second.value is None and second.rolled_back), second
            assert session.run("3").value == 3
        assert executor.run("4").value == 4


def test_killed_session_stops_using_the_processor(executor: Executor) -> None:
    session = executor.session()
    pid = worker_of(session)
    runner = threading.Thread(target=lambda: session.run("while True:\n    pass"))

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def rests() -> bool:
        before = ticks()
        time.sleep(0.3)  # the span that is measured, of thirty ticks
        return ticks() - before <= 2

    idle = ticks()
    runner.start()
    assert eventually(lambda: ticks() > idle + 5)  # it runs
    session.kill()
    runner.join(5)
    assert not runner.is_alive()
    assert eventually(rests)


def test_many_sessions_wait_in_tools_at_once(executor: Executor) -> None:
    barrier = threading.Barrier(20)

    def meet() -> int:
        return barrier.wait(20)

    results: list[object] = []

    def work() -> None:
        with executor.session(tools=[meet]) as session:
            results.append(session.run("meet() >= 0").value)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_limits_hold_in_workers(executor: Executor) -> None:
    policy = Policy(limits=Limits(time=0.3, memory=32 << 20))
    result = executor.run("9 ** 9 ** 9", policy=policy)
    assert result.error is not None and result.error.kind == "time"
    result = executor.run("bytearray(64 << 20)", policy=policy)
    assert result.error is not None and result.error.kind == "memory"


def test_fork_of_the_host_is_told(executor: Executor) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            executor.session()
        except BackendUnavailable as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, encoding="utf-8") as pipe:
        assert "fork" in pipe.read()


@pytest.mark.parametrize(
    "options",
    [{"workers": -1}, {"workers": "2"}, {"isolation": "none"}, {"workers": 0, "isolation": "session"}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        WasmBackend(Policy(), **options)  # type: ignore[arg-type]


def test_large_values_cross_whole(executor: Executor) -> None:
    data = os.urandom(1 << 20) * 8
    with executor.session(variables={"data": data}) as session:
        assert session.run("len(data)").value == len(data)
        assert session.variables["data"] == data


def test_host_socket_pair_is_the_only_way_in() -> None:
    # A guest's socket is one end of a pair: there is no address that others could connect to.
    with Executor(WasmBackend(Policy(), workers=1)) as executor, executor.session() as session:
        sock = session._guest._socket  # type: ignore[attr-defined]
        assert isinstance(sock, socket.socket) and sock.getsockname() == ""


def test_the_host_of_workers_does_not_load_wasmtime() -> None:
    code = (
        "import sys\nfrom safeexec import Executor\n"
        "with Executor('wasm') as executor:\n    assert executor.run('6 * 7').value == 42\n"
        "print([m for m in ('ctypes', 'zlib', 'safeexec_backends.wasm.abi', 'safeexec_backends.wasm.instance') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


class Quiet(SessionHost):
    """The host of a session without an instance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.killed = False
        self.buffer = bytearray()
        self.socket, self.other = socket.socketpair()

    def interrupted(self) -> bool:
        return False


def test_who_wakes_a_guest_finds_the_descriptor_that_he_saw() -> None:
    """An interrupt while the guest leaves its wait wrote to a closed descriptor, which ended the worker, or to somebody else's."""
    host = Quiet()
    thread = threading.Thread(target=host._wait_for_bytes, args=(None,))
    thread.start()
    assert eventually(lambda: host.wake >= 0)
    with host._lock:  # as interrupt() and kill() do
        seen = host.wake
        host.other.sendall(bytes(4))  # a frame: the wait is over
        thread.join(0.3)
        assert thread.is_alive() and host.wake == seen
        os.eventfd_write(seen, 1)
    thread.join(10)
    assert not thread.is_alive() and host.wake == -1
    host.socket.close()
    host.other.close()


def test_a_session_for_one_step_is_over_with_its_answer() -> None:
    """Its worker does not wait for the host to hang up."""
    with Executor("wasm", workers=1) as executor:
        executor.run("1")
        (worker,) = executor._backend._pool._workers  # type: ignore[attr-defined]
        line = worker.fresh()
        with line.socket as sock:
            sock.settimeout(60)
            greeting = GREETING.pack(1 << 20, 1 << 20)
            request = wire.pack({"t": "run", "id": 7, "code": "print('x')\n6 * 7"})[0]
            sock.sendall(greeting + WORD + bytes((LAST,)) + bytes(request) + bytes(request))
            reader = wire.FrameReader(sock.recv_into, 1 << 20)
            assert reader.next()[0]["t"] == "out"
            assert reader.next()[0]["v"] == 42
            with pytest.raises((EOFError, ConnectionResetError)):
                reader.next()


def test_channels_of_sessions_are_made_several_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    order = WorkerProcess.order

    def counted(self: WorkerProcess, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        orders.append(message["op"])
        order(self, message, fds)

    with Executor("wasm", workers=1) as executor:
        executor.run("1")
        monkeypatch.setattr(WorkerProcess, "order", counted)
        assert [executor.run(f"{n} + 1").value for n in range(40)] == list(range(1, 41))
        assert 0 < orders.count("start") <= 40 // (AHEAD - 2)
        assert set(orders) <= {"start", "rest"}, (
            "nothing is said of a session's end; on a slow machine one may rest in between"
        )
        (worker,) = executor._backend._pool._workers  # type: ignore[attr-defined]
        assert len(worker._ahead) <= AHEAD + 2


def test_a_host_with_thousands_of_descriptors_gets_sessions() -> None:
    """Whatever watches a worker has a number that select() does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = []
    try:
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        with Executor(WasmBackend(Policy(), workers=1)) as executor, executor.session() as session:
            assert session.run("x = 7").ok
            pid = worker_of(session)
            assert eventually(lambda: session._guest.keeper.get(session._guest) is not None, 20)  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGKILL)
            assert gone(pid)
            assert session.run("x").value == 7
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_host_without_descriptors_says_so_and_loses_nothing() -> None:
    with Executor(WasmBackend(Policy(), workers=1)) as executor, executor.session() as session:
        session.run("x = 7")
        assert eventually(lambda: session._guest.keeper.get(session._guest) is not None, 20)  # type: ignore[attr-defined]
        snapshot = session.snapshot()
        session._guest.worker._ahead.clear()  # type: ignore[attr-defined]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        held: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            for attempt in (session.fork, executor.session, lambda: executor.restore(snapshot)):
                with pytest.raises(BackendUnavailable, match="Too many open files"):
                    attempt()
            assert session.run("x").value == 7
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with session.fork() as branch, executor.session() as fresh:
            assert branch.run("x").value == 7 and fresh.run("8").value == 8
