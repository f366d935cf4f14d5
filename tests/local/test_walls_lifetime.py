"""Nothing outlives its owner: cells, zygotes, folders, descriptors, whoever dies first and however."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.backend import GuestDied
from safeexec.errors import BackendUnavailable
from safeexec.testing.base import eventually
from safeexec_backends.local.backend import LocalBackend, LocalGuest
from tests.local.cells import children, ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: process descriptors are Linux's")


def request(guest: LocalGuest, header: dict[str, Any]) -> dict[str, Any]:
    """One exchange with a guest; its last frame's header."""
    seen: list[dict[str, Any]] = []

    def on_frame(frame: Any) -> bool:
        seen.append(frame[0])
        return frame[0].get("t") == "done"

    guest.exchange(({"id": 1, **header}, []), on_frame)
    return seen[-1]


def begin(backend: LocalBackend, policy: Policy | None = None) -> LocalGuest:
    guest = backend.start(policy or Policy())
    request(guest, {"t": "init"})
    return guest


def value(guest: LocalGuest, code: str) -> Any:
    answer = request(guest, {"t": "run", "code": textwrap.dedent(code)})
    assert "error" not in answer, answer
    return answer.get("v")


@contextmanager
def backend(policy: Policy | None = None, **options: Any) -> Iterator[LocalBackend]:
    made = LocalBackend(policy or Policy(), _language="full", **options)
    try:
        yield made
    finally:
        made.close()


def zygote_pid(made: LocalBackend) -> int:
    assert made._zygote is not None
    return made._zygote._process.pid


def test_close_leaves_no_process_and_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with backend() as made:
        zygote = zygote_pid(made)
        guests = [begin(made) for _ in range(3)]
        pidfds = [os.pidfd_open(g.pid) for g in guests]
        guests[0].close()
        assert ended(pidfds[0], 0)
    assert all(ended(fd, 0) for fd in pidfds[1:])
    for fd in pidfds:
        os.close(fd)
    assert children(zygote) == set()
    assert not Path(f"/proc/{zygote}").exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_closed_guest_is_gone_with_its_threads() -> None:
    with backend() as made:
        guest = begin(made)
        value(
            guest,
            "import threading\nfor _ in range(5): threading.Thread(target=threading.Event().wait, daemon=True).start()",
        )
        pidfd = os.pidfd_open(guest.pid)
        guest.close()
        guest.close()
        assert ended(pidfd, 0)
        os.close(pidfd)


HOST = """
import json, os, sys, signal
from safeexec import Executor, Policy
executor = Executor("local", _language="full", **json.loads(sys.argv[1]))
session = executor.session()
session.run("1")
zygote = executor._backend._zygote
print(json.dumps([zygote._process.pid, zygote._folder]), flush=True)
import threading
threading.Thread(target=lambda: session.run("while True: pass"), daemon=True).start()
signal.pause()
"""


@pytest.mark.parametrize("options", [{}, {"_deny": ["mount_namespace"]}, {"_deny": ["pid_namespace"]}])
def test_nothing_is_left_when_the_host_is_killed(options: dict[str, Any]) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST, json.dumps(options)], stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        zygote, folder = json.loads(host.stdout.readline())
        assert eventually(lambda: len(children(zygote)) >= 2)  # a busy cell and a spare
        cells = [os.pidfd_open(pid) for pid in children(zygote)]
        own = os.pidfd_open(zygote)
        host.kill()
        assert ended(own) and all(ended(fd) for fd in cells)
        for fd in (own, *cells):
            os.close(fd)
        assert bool(folder) == ("mount_namespace" in options.get("_deny", ()))
        assert not folder or eventually(lambda: not os.path.exists(folder))
    finally:
        host.kill()
        host.communicate()


def test_cells_die_with_a_killed_zygote_and_the_next_session_gets_a_new_one() -> None:
    with backend() as made:
        guest = begin(made)
        pidfd = os.pidfd_open(guest.pid)
        old = zygote_pid(made)
        os.kill(old, signal.SIGKILL)
        with pytest.raises(GuestDied) as caught:
            request(guest, {"t": "run", "code": "import time; time.sleep(60)"})
        assert caught.value.kind == "crash"
        assert ended(pidfd)
        os.close(pidfd)
        guest.close()
        fresh = begin(made)
        assert value(fresh, "6 * 7") == 42
        assert zygote_pid(made) != old


def test_a_private_folder_goes_with_its_cell_and_with_a_killed_zygote() -> None:
    with backend(_deny=["mount_namespace"]) as made:
        guest = begin(made)
        value(
            guest,
            "import os\nfor _ in range(300):\n    os.mkdir('d'); os.chdir('d')\nos.symlink('/etc', 'x'); open('f', 'w').close()",
        )
        assert made._zygote is not None
        folder = Path(made._zygote._folder)
        [mine] = [f for f in folder.iterdir() if (f / "work" / "d").exists()]
        guest.close()
        assert eventually(lambda: not mine.exists())
        os.kill(zygote_pid(made), signal.SIGKILL)
    assert not folder.exists()


def test_kill_ends_a_running_exchange_from_another_thread() -> None:
    with backend() as made:
        guest = begin(made)
        threading.Timer(0.2, guest.kill).start()
        with pytest.raises(GuestDied):
            request(guest, {"t": "run", "code": "while True: pass"})
        guest.kill()
        guest.interrupt()
        guest.close()
        guest.kill()


def test_interrupt_stops_the_step_and_keeps_the_session() -> None:
    with backend() as made:
        guest = begin(made)
        threading.Timer(0.2, guest.interrupt).start()
        answer = request(guest, {"t": "run", "code": "x = 1\nwhile True: pass"})
        assert answer["error"]["type"] == "KeyboardInterrupt"
        assert value(guest, "x") == 1


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("import os; os._exit(7)", "crash", "exit code 7"),
        ("import ctypes; ctypes.string_at(8)", "crash", "SIGSEGV"),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", "crash", "seccomp"),
        ("import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass", "crash", ""),
    ],
)
def test_the_way_a_cell_died_is_told(code: str, kind: str, words: str) -> None:
    with backend() as made:
        guest = begin(made)
        with pytest.raises(GuestDied) as caught:
            request(guest, {"t": "run", "code": code})
        assert caught.value.kind == kind
        assert words in caught.value.message
        guest.close()
        assert value(begin(made), "1") == 1


def test_a_cell_killed_from_outside_counts_as_out_of_memory() -> None:
    with backend() as made:
        for policy in (Policy(), Policy(rollback="never")):
            guest = begin(made, policy)
            pidfd = os.pidfd_open(guest.pid)
            os.kill(guest.pid, signal.SIGKILL)
            assert ended(pidfd)
            os.close(pidfd)
            with pytest.raises(GuestDied) as caught:
                request(guest, {"t": "run", "code": "1"})
            assert caught.value.kind == "memory"


def test_stopping_itself_does_not_keep_a_cell_alive() -> None:
    with backend() as made:
        guest = begin(made)
        pidfd = os.pidfd_open(guest.pid)
        os.kill(guest.pid, signal.SIGSTOP)
        guest.close()
        assert ended(pidfd, 0)
        os.close(pidfd)


def test_ignoring_every_signal_does_not_keep_a_cell_alive() -> None:
    with backend() as made:
        guest = begin(made)
        value(
            guest,
            "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass",
        )
        pidfd = os.pidfd_open(guest.pid)
        guest.close()
        assert ended(pidfd, 0)
        os.close(pidfd)


def test_sessions_do_not_share_randomness() -> None:
    code = "import random, tempfile, uuid, os\n[random.random(), tempfile.mktemp(), str(uuid.uuid4()), os.urandom(4).hex()]"
    with Executor("local", _language="full") as executor:
        drawn = [executor.run(code).value for _ in range(3)]
    assert all(len({answer[place] for answer in drawn}) == 3 for place in range(4)), drawn


def test_sessions_do_not_share_numpy_randomness() -> None:
    policy = Policy(imports=("numpy.*",))
    with Executor("local", policy=policy, _language="full") as executor:
        drawn = {executor.run("import numpy\nfloat(numpy.random.rand())").value for _ in range(3)}
    assert len(drawn) == 3


def test_sessions_do_not_see_each_other() -> None:
    look = """
        import os
        seen = os.listdir("/tmp") + os.listdir(".")
        for pid in range(1, 200):
            if pid not in (os.getpid(), checkpoint):
                try:
                    os.kill(pid, 0)
                    seen.append(pid)
                except OSError:
                    pass
        seen
    """
    with Executor("local", _language="full") as executor, executor.session() as one, executor.session() as two:
        # An environment that lies below /tmp, such as a clone's, is there for both; its folder is all that may be seen.
        library = two.run("import os; checkpoint = os.getpid() + 1; os.listdir('/tmp')").value
        assert not library or "/tmp" in [str(p) for p in Path(sys.prefix).parents]
        one.run("open('/tmp/a', 'w').close(); open('b', 'w').close()")
        assert two.run(textwrap.dedent(look)).value == library


def test_many_sessions_at_once() -> None:
    with Executor("local", _language="full") as executor:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(executor.run(f"import os; {n} * 2").value))
            for n in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [n * 2 for n in range(24)]


def test_a_backend_does_not_serve_the_child_of_a_fork() -> None:
    with backend() as made:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                made.start(Policy())
            except BackendUnavailable as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        with open(read) as pipe:
            assert "fork" in pipe.read()
        assert value(begin(made), "1") == 1


def test_a_module_that_starts_threads_is_left_to_the_cells(tmp_path: Path) -> None:
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "threaded_walls_module.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nANSWER = 42\n"
    )
    os.chmod(tmp_path, 0o755)
    sys.path.append(str(library))
    try:
        with Executor("local", policy=Policy(imports=("threaded_walls_module",)), _language="full") as executor:
            assert executor.run("import threaded_walls_module\nthreaded_walls_module.ANSWER").value == 42
            assert executor.run("import threaded_walls_module\nthreaded_walls_module.ANSWER").value == 42
    finally:
        sys.path.remove(str(library))


def test_a_spare_cell_that_died_is_not_handed_out() -> None:
    with backend() as made:
        assert value(begin(made), "1") == 1
        zygote = zygote_pid(made)
        known = {g.pid for g in made._guests}
        assert eventually(lambda: bool(children(zygote) - known))
        for pid in children(zygote) - known:
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            assert ended(pidfd)
            os.close(pidfd)
        assert value(begin(made), "2") == 2


def test_the_limits_of_a_session_are_those_of_its_own_policy() -> None:
    code = (
        "import resource\n[resource.getrlimit(resource.RLIMIT_NPROC)[1], resource.getrlimit(resource.RLIMIT_FSIZE)[1]]"
    )
    with backend() as made:
        first = begin(made, Policy(rollback="never"))
        second = begin(made, Policy(rollback="never", limits=Limits(processes=7, disk=2**20)))
        third = begin(made, Policy(rollback="never"))
        assert value(first, code) == value(third, code) == [32, 64 * 2**20]
        assert value(second, code) == [7, 2**20]
        # Beside the session's there are the process that watches over it and the copy.
        code = code.replace("NPROC)[1]", "NPROC)[0]")
        assert value(begin(made, Policy(limits=Limits(processes=7, disk=2**20))), code) == [7 + 2, 2**20]


def test_a_cell_that_closes_its_connection_is_ended() -> None:
    with backend() as made:
        guest = begin(made, Policy(rollback="never"))
        pidfd = os.pidfd_open(guest.pid)
        started = time.monotonic()
        with pytest.raises(GuestDied) as caught:
            request(guest, {"t": "run", "code": "import os\nos.close(3)\nwhile True: pass"})
        assert "closed its connection" in caught.value.message
        assert time.monotonic() - started < 5
        assert ended(pidfd)
        os.close(pidfd)


def test_high_descriptor_numbers_are_no_obstacle() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    low = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
    try:
        with backend() as made:
            guest = begin(made)
            assert value(guest, "1 + 1") == 2
            with pytest.raises(GuestDied):
                request(guest, {"t": "run", "code": "import os; os._exit(1)"})
            guest.close()
    finally:
        for fd in low:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


WITHOUT_STREAMS = """
import os, sys
for fd in (0, 1, 2):
    os.close(fd)
os.execv(sys.executable, [sys.executable, "-c", '''
import sys, safeexec
result = safeexec.run("print(20); 21", sandbox=sys.argv[1])
with open(sys.argv[2], "w") as file:
    file.write(repr((result.stdout, result.value)))
''', *sys.argv[1:]])
"""


@pytest.mark.parametrize("sandbox", ["local", "wasm"])
def test_a_host_without_standard_streams_has_sandboxes(tmp_path: Path, sandbox: str) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_STREAMS, sandbox, tmp_path / "said"], check=True, timeout=120)
    assert (tmp_path / "said").read_text() == "('20\\n', 21)"


def test_too_few_files_for_a_sandbox_is_said_by_its_name() -> None:
    code = (
        "import resource, safeexec\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n    safeexec.run('1', sandbox='wasm')\nexcept safeexec.BackendUnavailable as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert "the wasm sandbox's zygote" in done.stdout and "64 files may be open here (ulimit -Hn)" in done.stdout


def test_the_child_of_a_fork_ends_nothing_of_its_parents() -> None:
    with backend() as made:
        guest = begin(made)
        pid = os.fork()
        if pid == 0:
            try:
                guest.kill()
                guest.close()
                made.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert value(guest, "1 + 1") == 2
        assert value(begin(made), "1") == 1


def test_an_interrupted_start_does_not_mix_up_the_sessions_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeexec_backends.local import control

    with backend() as made:
        first = begin(made)
        real = control.receive

        def interrupted(*arguments: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(control, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.start(Policy())
        monkeypatch.setattr(control, "receive", real)
        second = begin(made, Policy(rollback="never", limits=Limits(processes=9)))
        assert value(second, "import resource\nresource.getrlimit(resource.RLIMIT_NPROC)[0]") == 9
        assert value(first, "1") == 1


def test_forty_sessions_live_side_by_side() -> None:
    with backend() as made:
        guests = [made.start(Policy()) for _ in range(40)]
        for guest in guests:
            request(guest, {"t": "init"})
        assert {value(guest, "1 + 1") for guest in guests} == {2}


def test_signals_that_the_host_ignores_or_blocks_make_no_difference() -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD])
    try:
        with backend() as made:
            guest = begin(made)
            threading.Timer(0.2, guest.interrupt).start()
            answer = request(guest, {"t": "run", "code": "while True: pass"})
            assert answer["error"]["type"] == "KeyboardInterrupt"
            with pytest.raises(GuestDied, match="exit code 3"):
                request(guest, {"t": "run", "code": "import os; os._exit(3)"})
            assert value(begin(made), "1") == 1
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, old)


def test_a_zygote_leaks_nothing_over_many_sessions() -> None:
    with backend() as made:
        begin(made).close()
        zygote = zygote_pid(made)

        def state() -> tuple[int, int]:
            return len(os.listdir(f"/proc/{zygote}/fd")), len(children(zygote))

        assert eventually(lambda: state()[1] == 1)
        before = state()
        for _ in range(40):
            begin(made).close()
        assert eventually(lambda: state()[0] <= before[0] and state()[1] == 1), (before, state())
