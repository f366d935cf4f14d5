"""The peers, each through its own documented interface, behind one shape: open, step, put, get, close.

Runs in each peer's own environment: standard library only, but for the peer itself. Sessions raise on any failure of a step.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout

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
    def __init__(self, sandbox, **options):
        import safeexec

        limits = safeexec.Limits(time=60, wall=600, tool_calls=None, value=32 * 2**20, output=2**24)
        self._executor = safeexec.Executor(sandbox, policy=safeexec.Policy(limits=limits), **options)

    def open(self):
        return SafeexecSession(self._executor.session(tools={"tool": tool}))

    def open_that_goes_back(self):
        import safeexec

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


class Restricted(Executor):
    """As its documentation sets it up: safe and utility built-ins, its own guards, no imports but what the programs need."""

    def open(self):
        return RestrictedSession()


class RestrictedSession(Session):
    def __init__(self):
        import json
        import operator
        import random

        from RestrictedPython import compile_restricted
        from RestrictedPython.Eval import default_guarded_getitem, default_guarded_getiter
        from RestrictedPython.Guards import full_write_guard, guarded_iter_unpack_sequence, safe_builtins, safer_getattr
        from RestrictedPython.Limits import limited_builtins
        from RestrictedPython.PrintCollector import PrintCollector
        from RestrictedPython.Utilities import utility_builtins

        builtins = {**safe_builtins, **limited_builtins, **utility_builtins}
        for plain in (
            sum,
            min,
            max,
            list,
            dict,
            map,
            filter,
            enumerate,
            all,
            any,
            set,
            frozenset,
            reversed,
            iter,
            next,
        ):
            builtins[plain.__name__] = plain
        builtins["range"] = range  # the guarded one stops at 1,000 items
        modules = {"json": json, "random": random}
        for name in ("math", "re", "datetime", "collections", "itertools", "functools", "statistics", "string"):
            modules[name] = __import__(name)
        builtins["__import__"] = lambda name, *rest: modules[name]
        inplace = {"+=": operator.iadd, "-=": operator.isub, "*=": operator.imul, "/=": operator.itruediv}
        inplace.update({"//=": operator.ifloordiv, "%=": operator.imod, "**=": operator.ipow, "&=": operator.iand})
        inplace.update({"|=": operator.ior, "^=": operator.ixor})
        self._compile = compile_restricted
        self._globals = {
            "__builtins__": builtins,
            "__name__": "step",
            "__metaclass__": type,
            "_getattr_": safer_getattr,
            "_getitem_": default_guarded_getitem,
            "_getiter_": default_guarded_getiter,
            "_iter_unpack_sequence_": guarded_iter_unpack_sequence,
            "_unpack_sequence_": guarded_iter_unpack_sequence,
            "_write_": full_write_guard,
            "_print_": PrintCollector,
            "_inplacevar_": lambda op, left, right: inplace[op](left, right),
            "tool": tool,
        }

    def step(self, code):
        import ast

        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            exec(self._compile(ast.unparse(tree), "<step>", "exec"), self._globals)
        if last is None:
            return None
        return eval(self._compile(ast.unparse(last), "<step>", "eval"), self._globals)

    def printed(self, code):
        self._globals.pop("_print", None)
        exec(self._compile(code, "<step>", "exec"), self._globals)
        printer = self._globals.get("_print")
        return "" if printer is None else "".join(printer.txt)

    def put(self, name, data):
        self._globals[name] = data  # the object itself: nothing crosses


class Smolagents(Executor):
    def open(self):
        return SmolagentsSession()


class SmolagentsSession(Session):
    def __init__(self):
        from smolagents.local_python_executor import LocalPythonExecutor

        # Its defaults, but for `json`, which one of the programs imports, and for no limit on time, which costs it a thread a step.
        self._executor = LocalPythonExecutor(additional_authorized_imports=["json"], timeout_seconds=None)
        self._executor.send_tools({"tool": tool})

    def step(self, code):
        return self._executor(code).output

    def printed(self, code):
        return self._executor(code).logs

    def put(self, name, data):
        self._executor.send_variables({name: data})  # the object itself: nothing crosses


class Monty(Executor):
    def __init__(self):
        import pydantic_monty

        # As many workers as sessions are wanted: a session has one to itself.
        self._pool = pydantic_monty.Monty(min_processes=4, max_processes=20_000).__enter__()

    def open(self):
        return MontySession(self._pool.checkout().__enter__(), self._pool)

    def close(self):
        self._pool.__exit__(None, None, None)


class MontySession(Session):
    def __init__(self, session, pool):
        self._session, self._pool = session, pool

    def fork(self):
        branch = self._pool.checkout().__enter__()
        branch.load_session(self._session.dump())
        return MontySession(branch, self._pool)

    def step(self, code):
        return self._session.feed_run(code, external_lookup={"tool": tool})

    def printed(self, code):
        parts = []
        self._session.feed_run(
            code, external_lookup={"tool": tool}, print_callback=lambda stream, text: parts.append(text)
        )
        return "".join(parts)

    def put(self, name, data):
        self._session.feed_run("None", inputs={name: data})

    def close(self):
        self._session.__exit__(None, None, None)


class IPythonKernel(Executor):
    def open(self):
        return KernelSession()


class KernelSession(Session):
    def __init__(self):
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel()

    def step(self, code):
        if "tool(" in code:
            raise Unable("a kernel cannot call its host")
        answer = self._run(code).get("text/plain")
        import ast

        return None if answer is None else ast.literal_eval(answer)

    def printed(self, code):
        out = io.StringIO()
        with redirect_stdout(out):
            self._run(code, print)
        return out.getvalue()

    def _run(self, code, on_print=None):
        found = {}

        def look(message):
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_result":
                found.update(content["data"])
            elif kind == "stream" and content["name"] == "stdout" and on_print is not None:
                on_print(content["text"], end="")

        reply = self._client.execute_interactive(code, output_hook=look, timeout=60, store_history=False)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
        return found

    def get(self, name):
        raise Unable("values cross as text only")

    def close(self):
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def make(name):
    """The executor of that name. Raises whatever the peer raises when it is not there."""
    if name == "wasm0":
        return Safeexec("wasm", workers=0)
    if name in ("wasm", "local"):
        return Safeexec(name)
    if name == "subprocess":
        return Process(sys.executable, "-I", os.path.join(HERE, "child.py"))
    if name in ("eryx", "sandlock"):
        from executors_native import Eryx, Sandlock

        return {"eryx": Eryx, "sandlock": Sandlock}[name]()
    kinds = {
        "fork": Fork,
        "restricted": Restricted,
        "smolagents": Smolagents,
        "monty": Monty,
        "ipykernel": IPythonKernel,
    }
    kinds.update({"bubblewrap": Bubblewrap, "gvisor": GVisor})
    return kinds[name]()
