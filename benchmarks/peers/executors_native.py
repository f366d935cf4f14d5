"""Peers whose interface needs more than a line or two: pyeryx and sandlock."""

import ast
import base64
import os
import shutil
import sys
import tempfile

from executors import HERE, Executor, FrameSession, Session, tool


class Eryx(Executor):
    """Sessions of pyeryx, which run in this process; its callbacks are awaited, and what crosses is JSON."""

    def __init__(self):
        import eryx

        self._eryx = eryx

    def open(self):
        callback = {"name": "tool", "fn": tool, "description": "adds one"}
        return EryxSession(self._eryx.Session(callbacks=[callback]), self)


class EryxSession(Session):
    TOOL = "total = 0\nfor i in range(50):\n    total = await tool(value=i)\ntotal"

    def __init__(self, session, executor):
        self._session, self._executor = session, executor

    def fork(self):
        # By its snapshot, which pickles the variables inside: what cannot be pickled is not in the branch.
        branch = self._executor.open()
        branch._session.restore_state(self._session.snapshot_state())
        return branch

    def step(self, code):
        lines, start = code.rstrip().splitlines(), None
        last = ast.parse(code).body[-1]
        if isinstance(last, ast.Expr):
            start = last.lineno - 1
            lines[start] = lines[start][: last.col_offset] + "result = " + lines[start][last.col_offset :]
        done = self._session.execute("\n".join(lines))
        return done.result if start is not None else None

    def printed(self, code):
        return self._session.execute(code).stdout_text

    def put(self, name, data):
        text = base64.b64encode(data).decode()
        self._session.execute(f"import base64\n{name} = base64.b64decode('{text}')")

    def get(self, name):
        return base64.b64decode(
            self._session.execute(f"import base64\nresult = base64.b64encode({name}).decode()").result
        )


class Sandlock(Executor):
    """The interpreter as a confined process that serves frames, with read access to what an interpreter needs."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="peers-sandlock-")

    def close(self):
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self):
        from sandlock import Sandbox
        from sandlock.sandbox import StdioMode

        prefix = os.path.realpath(sys.base_prefix)
        places = [p for p in ("/usr", "/lib", "/lib64", "/etc", "/dev", prefix, HERE) if os.path.exists(p)]
        sandbox = Sandbox(fs_readable=places, fs_writable=["/dev/null", self._folder], cwd=self._folder)
        command = [os.path.join(prefix, "bin", "python3"), "-I", os.path.join(HERE, "child.py")]
        return SandlockSession(
            sandbox.popen(command, stdin=StdioMode.PIPED, stdout=StdioMode.PIPED, stderr=StdioMode.NULL)
        )


class SandlockSession(FrameSession):
    def __init__(self, process):
        self._process = process
        super().__init__(process.stdin.fileno(), process.stdout.fileno())

    def close(self):
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
