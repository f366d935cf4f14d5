"""The peers, each through its own documented interface, behind one shape: open, step, put, get, close.

Runs in each peer's own environment: standard library only, but for the peer itself. Sessions raise on any failure of a step.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import child  # noqa: E402


class Unable(Exception):
    """The peer has no way to do this; the message says so."""


def tool(value):
    """The host's function that steps call."""
    return value + 1


class Session:
    """One sandbox with its state."""

    def step(self, code):
        """The value of the code's last expression."""
        raise NotImplementedError

    def printed(self, code):
        """What the code printed, in a session of its own. By default through a step that collects it inside."""
        return self.step(CAPTURE.format(code=code))

    def put(self, name, data):
        """Bytes in, under a name."""
        raise Unable("no values in")

    def get(self, name):
        """The bytes of a name, out."""
        return self.step(name)

    def fork(self):
        """Another session with the same state."""
        raise Unable("cannot fork a session")

    def close(self):
        """End it."""


CAPTURE = """
import io as _io, contextlib as _contextlib
_out = _io.StringIO()
with _contextlib.redirect_stdout(_out):
    exec(compile({code!r}, "<program>", "exec"), {{"__name__": "__main__"}})
_out.getvalue()
"""


class Executor:
    """One peer, set up once."""

    def open(self):
        """A fresh session."""
        raise NotImplementedError

    def open_that_goes_back(self):
        """A session whose failed steps are taken back."""
        raise Unable("no rollback")

    def spoil(self, session):
        """A step that fails and is taken back."""

    def close(self):
        """Leave nothing behind."""


class Safeexec(Executor):
    def __init__(self, sandbox, goes_back=True, **options):
        import safeexec

        limits = safeexec.Limits(time=60, wall=600, tool_calls=None, value=32 * 2**20, output=2**24)
        policy = safeexec.Policy(limits=limits, rollback=None if goes_back else "never")
        self._goes_back = goes_back
        self._executor = safeexec.Executor(sandbox, policy=policy, **options)

    def open(self):
        return SafeexecSession(self._executor.session(tools={"tool": tool}))

    def open_that_goes_back(self):
        import safeexec

        if not self._goes_back:
            raise Unable("told not to")
        try:
            return SafeexecSession(self._executor.session(policy=safeexec.Policy(rollback="errors")))
        except safeexec.PolicyError as error:
            raise Unable(str(error)) from error

    def spoil(self, session):
        result = session.session.run("kept = 0\n1 / 0")
        if not result.rolled_back:
            raise AssertionError(f"the step was not taken back: {result.error}")

    def close(self):
        self._executor.close()


class SafeexecSession(Session):
    def __init__(self, session):
        self.session = session

    def step(self, code):
        return self.session.run(code).raise_for_error().value

    def printed(self, code):
        return self.session.run(code).raise_for_error().stdout

    def put(self, name, data):
        self.session.variables[name] = data

    def fork(self):
        import safeexec

        try:
            return SafeexecSession(self.session.fork())
        except safeexec.NotSupported as error:
            raise Unable(str(error)) from error

    def close(self):
        self.session.close()


class Process(Executor):
    """A process that serves frames over its standard input and output."""

    def __init__(self, *command):
        self._command = command

    def open(self):
        return ProcessSession(
            subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )


class FrameSession(Session):
    """A session at the end of two descriptors."""

    def __init__(self, outward, inward):
        self._out, self._in = outward, inward

    def _ask(self, header, blob=b""):
        child.send(self._out, header, blob)
        while True:
            frame = child.receive(self._in)
            if frame is None:
                raise RuntimeError("the process has gone")
            answer, data = frame
            if "call" in answer:
                child.send(self._out, {"value": tool(answer["call"])})
            elif "error" in answer:
                raise RuntimeError(answer["error"])
            else:
                return data or answer["value"]

    def step(self, code):
        return self._ask({"code": code})

    def put(self, name, data):
        self._ask({"put": name}, data)


class ProcessSession(FrameSession):
    def __init__(self, process):
        self._process = process
        super().__init__(process.stdin.fileno(), process.stdout.fileno())

    def close(self):
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Fork(Executor):
    def open(self):
        mine, theirs = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(mine[1])
                os.close(theirs[0])
                child.serve(mine[0], theirs[1])
            finally:
                os._exit(0)
        os.close(mine[0])
        os.close(theirs[1])
        return ForkSession(pid, mine[1], theirs[0])


class ForkSession(FrameSession):
    def __init__(self, pid, outward, inward):
        self._pid = pid
        super().__init__(outward, inward)

    def close(self):
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._out)
        os.close(self._in)
        os.waitpid(self._pid, 0)


class Bubblewrap(Process):
    def __init__(self):
        prefix = os.path.realpath(sys.base_prefix)
        places = [p for p in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache") if os.path.exists(p)]
        binds = [word for place in [*places, prefix, HERE] for word in ("--ro-bind", place, place)]
        python = os.path.join(prefix, "bin", "python3")
        super().__init__(
            "bwrap", *binds, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-all", "--die-with-parent", "--new-session",
            python, "-I", os.path.join(HERE, "child.py"),
        )  # fmt: skip


class GVisor(Process):
    """``runsc do`` with the host's file system read-only beneath an overlay."""

    def __init__(self):
        self._root = tempfile.mkdtemp(prefix="peers-runsc-")
        prefix = os.path.realpath(sys.base_prefix)
        super().__init__(
            "runsc", "--rootless=false", "--platform=ptrace", "--network=none", "--root", self._root, "do",
            os.path.join(prefix, "bin", "python3"), "-I", os.path.join(HERE, "child.py"),
        )  # fmt: skip

    def open(self):
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return GVisorSession(process)

    def close(self):
        shutil.rmtree(self._root, ignore_errors=True)


class GVisorSession(ProcessSession):
    def close(self):
        # The end of its input lets the program end, and runsc take its sandbox down; killed, it would leave it running.
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()


def make(name):
    """The executor of that name. Raises whatever the peer raises when it is not there."""
    if name == "wasm0":
        return Safeexec("wasm", workers=0)
    if name in ("wasm", "local"):
        return Safeexec(name)
    if name in ("wasm-never", "local-never"):
        return Safeexec(name.removesuffix("-never"), goes_back=False)
    if name == "subprocess":
        return Process(sys.executable, "-I", os.path.join(HERE, "child.py"))
    own = {"fork": Fork, "bubblewrap": Bubblewrap, "gvisor": GVisor}
    if name in own:
        return own[name]()
    import executors_installed

    return executors_installed.KINDS[name]()
