"""Executors of other projects, each through its own documented interface. Imported only where they are installed."""

from __future__ import annotations

from typing import Any

from .adapter import Adapter, Outcome, Session, distribution


class Smolagents(Adapter):
    """smolagents' LocalPythonExecutor with its defaults, and the modules that its documentation authorises in examples."""

    capabilities = frozenset(("tools", "sessions", "variables", "value", "threads"))

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        from smolagents.local_python_executor import LocalPythonExecutor

        self._make = LocalPythonExecutor

    def open(self, tools: Any, kind: Any) -> Any:
        executor = self._make(additional_authorized_imports=[])
        executor.send_tools({name: tool for name, tool in tools.items() if not name.startswith("__")})
        return SmolagentsSession(executor)

    def version(self) -> Any:
        return distribution("smolagents")


class SmolagentsSession(Session):
    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def run(self, code: Any) -> Any:
        try:
            output = self._executor(code)
        except Exception as error:
            printed = str(self._executor.state.get("_print_outputs", ""))
            cause = error.__cause__ or error
            return Outcome(None, printed, "", ("exception", type(cause).__name__, str(error)))
        return Outcome(output.output, output.logs)

    def get(self, name: Any) -> Any:
        return self._executor.state[name]


class Restricted(Adapter):
    """RestrictedPython as its documentation sets it up: safe and utility built-ins, its own guards, no imports."""

    capabilities = frozenset(("tools", "sessions", "variables", "threads"))

    def open(self, tools: Any, kind: Any) -> Any:
        return RestrictedSession(tools)

    def version(self) -> Any:
        return distribution("RestrictedPython")


class RestrictedSession(Session):
    def __init__(self, tools: Any) -> None:
        from RestrictedPython.Eval import default_guarded_getitem, default_guarded_getiter
        from RestrictedPython.Guards import full_write_guard, guarded_iter_unpack_sequence, safe_builtins, safer_getattr
        from RestrictedPython.Limits import limited_builtins
        from RestrictedPython.PrintCollector import PrintCollector
        from RestrictedPython.Utilities import utility_builtins

        builtins = {**safe_builtins, **limited_builtins, **utility_builtins}
        builtins.update(
            sum=sum,
            min=min,
            max=max,
            list=list,
            dict=dict,
            map=map,
            filter=filter,
            enumerate=enumerate,
            all=all,
            any=any,
        )

        def inplace(op: Any, left: Any, right: Any) -> Any:
            import operator

            table = {
                "+=": operator.iadd,
                "-=": operator.isub,
                "*=": operator.imul,
                "/=": operator.itruediv,
                "//=": operator.ifloordiv,
            }
            chosen: Any = table[op]
            return chosen(left, right)

        self.globals = {
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
            "_inplacevar_": inplace,
        }
        self.globals.update((name, tool) for name, tool in tools.items() if not name.startswith("__"))

    def run(self, code: Any) -> Any:
        from RestrictedPython.compile import compile_restricted_exec

        compiled = compile_restricted_exec(code, filename="<step>")
        if compiled.code is None:
            return Outcome(None, "", "", ("exception", "SyntaxError", "; ".join(map(str, compiled.errors))[:2000]))
        self.globals.pop("_print", None)
        error = None
        try:
            exec(compiled.code, self.globals)
        except Exception as caught:
            error = ("exception", type(caught).__name__, str(caught))
        printer = self.globals.get("_print")
        return Outcome(None, "".join(printer.txt) if printer is not None else "", "", error, has_value=False)

    def get(self, name: Any) -> Any:
        return self.globals[name]


class Monty(Adapter):
    """pydantic-monty: an interpreter of a subset of Python, written in Rust, in worker processes of its own."""

    batch = True
    capabilities = frozenset(("tools", "sessions", "value"))

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        import pydantic_monty

        self._pool = pydantic_monty.Monty(min_processes=1).__enter__()

    def open(self, tools: Any, kind: Any) -> Any:
        limits = self.options["limits"]
        seconds = float(limits["benign_time"] if kind == "benign" else limits["time"])
        chosen = {
            "max_feed_duration_secs": seconds,
            "max_memory": limits["memory"],
            "max_suspensions": limits["tool_calls"],
        }
        session = self._pool.checkout(limits=chosen).__enter__()
        return MontySession(session, {name: tool for name, tool in tools.items() if not name.startswith("__")})

    def close(self) -> None:
        self._pool.__exit__(None, None, None)

    def version(self) -> Any:
        return distribution("pydantic-monty")


class MontySession(Session):
    def __init__(self, session: Any, tools: Any) -> None:
        self._session, self._tools = session, tools

    def run(self, code: Any) -> Any:
        printed = []

        def collect(stream: Any, text: Any) -> None:
            printed.append(text)

        try:
            value = self._session.feed_run(code, external_lookup=self._tools, print_callback=collect)
        except Exception as error:
            name, _, _ = str(error).partition(":")
            kind = name if name.isidentifier() else type(error).__name__
            return Outcome(None, "".join(printed), "", ("exception", kind, str(error)))
        return Outcome(value, "".join(printed))

    def close(self) -> None:
        self._session.__exit__(None, None, None)


class Eryx(Adapter):
    """pyeryx: CPython compiled to WASI, in the host process. A Session has no limit on memory, so each step has a Sandbox."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        import eryx

        self._module = eryx

    def open(self, tools: Any, kind: Any) -> Any:
        return EryxSession(self._module, self.options["limits"], kind)

    def version(self) -> Any:
        return distribution("pyeryx")


class EryxSession(Session):
    def __init__(self, module: Any, limits: Any, kind: Any) -> None:
        seconds = limits["benign_time"] if kind == "benign" else limits["time"]
        chosen = module.ResourceLimits(execution_timeout_ms=int(seconds * 1000), max_memory_bytes=limits["memory"])
        self._sandbox = module.Sandbox(resource_limits=chosen)

    def run(self, code: Any) -> Any:
        try:
            done = self._sandbox.execute(code)
        except Exception as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
            name = lines[-1].strip().partition(":")[0]
            return Outcome(
                None,
                "",
                "",
                ("exception", name if name.isidentifier() else type(error).__name__, str(error)),
                has_value=False,
            )
        return Outcome(None, done.stdout_text, done.stderr_text or "", has_value=False)
