"""The peers that are installed with pip. Runs in each peer's own environment, where the others are not: each is imported where it is used."""

import ast
import base64
import io
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stdout

from executors import HERE, Executor, FrameSession, Session, Unable, tool


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


KINDS = {
    "restricted": Restricted,
    "smolagents": Smolagents,
    "monty": Monty,
    "ipykernel": IPythonKernel,
    "eryx": Eryx,
    "sandlock": Sandlock,
}
