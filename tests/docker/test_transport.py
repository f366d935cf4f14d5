"""How frames travel: over sockets past the daemon, or through the daemon where it does not see this machine's files."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, Limits, Policy
from safeexec.testing.base import eventually
from safeexec_backends.docker import DockerBackend, backend, config, direct
from safeexec_backends.docker.direct import INSIDE, Direct
from safeexec_backends.docker.stream import Attached


class Stdio(DockerBackend):
    """A daemon that sees none of this machine's files."""

    _files_shared = False


@pytest.fixture(scope="module", params=["sockets", "stdio"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    policy = Policy()
    made = Executor("docker", policy=policy) if request.param == "sockets" else Executor(Stdio(policy), policy=policy)
    with made:
        yield made


def test_each_is_what_it_says() -> None:
    with Executor("docker") as made, made.session() as session:
        assert isinstance(session._guest._stream, Direct)  # type: ignore[attr-defined]
    policy = Policy()
    with Executor(Stdio(policy), policy=policy) as made, made.session() as session:
        assert isinstance(session._guest._stream, Attached)  # type: ignore[attr-defined]


def test_tools_streams_and_large_values(executor: Executor) -> None:
    seen: list[str] = []
    with executor.session(tools={"double": lambda x: 2 * x}, variables={"data": bytes(8 << 20)}) as session:
        result = session.run("print('a')\nprint(double(21))\ndata", on_output=lambda piece: seen.append(str(piece)))
        assert result.value == bytes(8 << 20) and "".join(seen) == "a\n42\n"
        gathered = session.run("import asyncio\nawait asyncio.gather(*(double.aio(n) for n in range(5)))")
        assert gathered.value == [0, 2, 4, 6, 8], gathered.error


def test_interrupt_reaches_the_step_it_was_meant_for_and_no_other(executor: Executor) -> None:
    with executor.session() as session:
        started = threading.Event()
        thread = threading.Thread(target=lambda: (started.wait(10), session.interrupt()))
        thread.start()
        result = session.run("print('go')\nwhile True:\n    pass", on_output=lambda _: started.set())
        thread.join()
        assert result.error is not None and result.error.type == "KeyboardInterrupt" and not session.closed
        for number in range(30):
            timer = threading.Timer(0.0005 * (number % 7), session.interrupt)
            timer.start()
            session.run("1")
            timer.join()
            assert session.run("sum(range(2000))").value == 1999000


def test_interrupt_that_overtakes_its_step_ends_it(executor: Executor) -> None:
    """The word and the step travel on two sockets: whichever comes first, the step must end."""
    with executor.session() as session:
        guest = session._guest
        real = guest.exchange

        def exchange(frame: Any, on_frame: Any) -> None:
            if isinstance(guest._stream, Direct) and frame[0]["t"] == "run":  # type: ignore[attr-defined]
                guest._stream.interrupt(frame[0]["id"])  # type: ignore[attr-defined]
                exchange.sent = True  # type: ignore[attr-defined]
            real(frame, on_frame)

        exchange.sent = False  # type: ignore[attr-defined]
        guest.exchange = exchange  # type: ignore[method-assign]
        most = 10**9 if isinstance(guest._stream, Direct) else 10**6  # type: ignore[attr-defined]
        result = session.run(f"n = 0\nwhile n < {most}:\n    n += 1\n'ran through'")
        if exchange.sent:  # type: ignore[attr-defined]
            assert result.error is not None and result.error.type == "KeyboardInterrupt"
        else:
            assert result.value == "ran through"
        guest.exchange = real  # type: ignore[method-assign]
        assert session.run("1 + 1").value == 2


def test_session_has_nothing_to_connect_to(docker_url: str) -> None:
    code = f"""
import os, socket
def attempt(path):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
        return "connected"
    except OSError as error:
        return type(error).__name__
def write(path):
    try:
        open(path, "w").close()
        return "written"
    except OSError as error:
        return type(error).__name__
ends = [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{n}}")]
(attempt({INSIDE!r}), write({INSIDE!r}), write("/etc/hosts"), sum(e.startswith("socket:") for e in ends))
"""
    with Executor("docker") as made:
        connected, written, hosts, ends = made.run(code).value
        assert connected in ("ConnectionRefusedError", "PermissionError") and written != "written" != hosts
        assert ends <= 2
        assert not list(direct.private_folder().glob(f"s{os.getpid()}.*")), "a socket file was left"


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_descriptors_sent_along_and_urgent_data_do_not_arrive(
    docker_url: str, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """A stream between processes of one machine can carry descriptors: a flood of them must neither fill nor confuse the host."""
    if kernel == "old":
        monkeypatch.setattr(direct, "_SO_PASSRIGHTS", 0)  # as before Linux 6.16: no option that the kernel knows
    one, other = socket.socketpair()
    refuses = direct.take_no_descriptors(one)
    one.close()
    other.close()
    code = """
import array, os, socket, stat
ends = [n for n in range(3, 40) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode)]
fds = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 200)
refused = 0
for n in ends:
    s = socket.socket(fileno=os.dup(n))
    for call in (lambda: s.send(b"!", socket.MSG_OOB), lambda: s.sendmsg([b"!"], [], socket.MSG_OOB), lambda: s.recv(1, socket.MSG_OOB)):
        try:
            call()
        except PermissionError:
            refused += 1
s = socket.socket(fileno=os.dup(ends[0]))
control = socket.socket(fileno=os.dup(ends[1]))
(refused, len(ends))
"""
    with Executor("docker", policy=Policy(rollback="never")) as made, made.session() as session:
        before = len(os.listdir("/proc/self/fd"))
        assert session.run(code).value == (6, 2)
        flood = "try:\n    for _ in range(50):\n        s.sendmsg([b'\\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])\nexcept OSError:\n    pass"
        assert session.run(flood.replace("s.sendmsg", "control.sendmsg") + "\nelse:\n    raise AssertionError").ok
        result = session.run(flood)
        if refuses:
            assert result.ok and session.run("1 + 1").value == 2
        else:
            assert result.error is not None and result.error.kind in ("protocol", "crash", "time")
        assert len(os.listdir("/proc/self/fd")) <= before
        assert made.run("1 + 1").value == 2


LINGER = """
import array, ctypes, os, platform, socket, stat, struct, threading
libc = ctypes.CDLL(None)
ends = [fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}') and stat.S_ISSOCK(os.fstat(fd).st_mode)]
frames = [socket.socket(fileno=os.dup(fd)) for fd in ends]
def waits():
    server = socket.create_server(('127.0.0.1', 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ours = socket.create_connection(server.getsockname())
    theirs = server.accept()[0]
    ours.setblocking(False)
    try:
        while True: ours.send(bytes(2**16))
    except BlockingIOError: pass
    value = struct.pack('ii', 1, 100_000)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
    for level, option in ((1, 13), (1 | 1 << 32, 13), (1, 13 | 1 << 32), (1 | 1 << 63, 13 | 1 << 40)):  # the kernel looks at 32 bits
        words = [ctypes.c_ulong(n) for n in (54 if platform.machine() == 'x86_64' else 208, ours.fileno(), level, option)]
        libc.syscall(*words, value, ctypes.c_ulong(8))
    return ours, theirs
def send(stream, ours, theirs):
    try:
        for end in (ours, theirs):  # the other end lies behind it, where nobody will read
            stream.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [end.fileno()]))])
    except OSError:
        return
    os.close(ours.detach())  # before the host does: a race, of which one of eight is won
    os.close(theirs.detach())
kept = [(stream, *waits()) for stream in frames for _ in range(8)]
for attempt in kept:
    threading.Thread(target=send, args=attempt, daemon=True).start()
while True: pass
"""


@pytest.mark.parametrize("kernel", [pytest.param("new", marks=pytest.mark.slow), "old"])
def test_a_socket_whose_end_waits_is_not_the_hosts_to_end(
    docker_url: str, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """Who drops the last descriptor of a connection with SO_LINGER waits for the other end, which lies in the same queue: no limit and no kill would end that."""
    if kernel == "old":
        monkeypatch.setattr(direct, "_SO_PASSRIGHTS", 0)  # as before Linux 6.16: no option that the kernel knows
    with Executor("docker", loopback=True) as executor:
        done: list[object] = []
        limits = Policy(limits=Limits(time=1, wall=2))
        step = threading.Thread(target=lambda: done.append(executor.run(LINGER, policy=limits)), daemon=True)
        step.start()
        step.join(20)
        assert done, "the host waits for what its guest sent along"


def test_daemon_that_does_not_see_our_files_is_spoken_to_through_itself(
    docker_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(config, "hosts_file", lambda: str(tmp_path / "not there"))
    backend._elsewhere.clear()
    try:
        with Executor("docker") as made, made.session() as session:
            assert isinstance(session._guest._stream, Attached)  # type: ignore[attr-defined]
            assert session.run("1 + 1").value == 2
        assert backend._elsewhere
    finally:
        backend._elsewhere.clear()


def test_folder_that_others_may_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = direct.private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(BackendUnavailable, match="remove it"):
        direct.Listener()
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(BackendUnavailable, match="remove it"):
        direct.Listener()


def test_socket_files_of_killed_hosts_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct.tempfile, "gettempdir", lambda: str(tmp_path))
    listener = direct.Listener()
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = direct.private_folder() / f"s{dead.pid}.1.abcd"
    stale.touch()
    direct.sweep()
    assert os.path.exists(listener.path) and not stale.exists()
    listener.close()
    assert not os.path.exists(listener.path)


def test_name_of_this_machine_resolves_inside(executor: Executor) -> None:
    code = "import socket\nsocket.gethostbyname('localhost')"
    assert executor.run(code).value == "127.0.0.1"


def test_container_that_dies_while_it_starts_says_why(docker_url: str) -> None:
    with pytest.raises(BackendUnavailable, match="did not start"):
        Executor("docker", python="/usr/local/lib/does-not-matter/../../bin/python3.99")


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 11)"])
def test_death_is_noticed_at_once_and_named(executor: Executor, how: str) -> None:
    session = executor.session(policy=Policy(rollback="never"))
    result = session.run(f"import os\n{how}")
    assert result.error is not None and result.error.kind == "crash" and "exit code" in result.error.message
    assert session.closed and eventually(lambda: not session._guest.alive())  # type: ignore[attr-defined]


def test_child_that_keeps_the_stream_does_not_hold_up_the_end(executor: Executor) -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\nos._exit(7)"
    result = executor.run(code, policy=Policy(limits=Limits(time=20)))
    assert result.error is not None and result.error.kind == "crash" and "exit code 7" in result.error.message
