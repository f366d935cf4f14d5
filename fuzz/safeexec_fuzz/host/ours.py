"""safeexec's own sandboxes, through the public API alone."""

from __future__ import annotations

from typing import Any

from .adapter import Adapter, Outcome, Session


class SafeExec(Adapter):
    """``sandbox`` names one; the other options go to the Executor, but ``imports``, which goes to the policy."""

    batch = True
    capabilities = frozenset(("tools", "sessions", "files", "variables", "value"))

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        from safeexec import DEFAULT_IMPORTS, Executor, Limits, Policy

        rest = dict(options["settings"])
        imports = rest.pop("imports", None)
        if imports is not None:
            imports = ("*",) if imports == "*" else (*DEFAULT_IMPORTS, *imports.split("+"))
        limits = options["limits"]
        self._policies = {}
        for kind in ("attack", "benign"):
            chosen = Limits(
                time=limits["time"] if kind == "attack" else limits["benign_time"],
                wall=limits["wall"] if kind == "attack" else 4 * limits["benign_time"],
                tool_time=limits["tool_time"],
                memory=limits["memory"],
                output=limits["output"],
                value=limits["value"],
                tool_calls=limits["tool_calls"],
            )
            self._policies[kind] = Policy(limits=chosen, imports=imports)
        self._sandbox = options["sandbox"]
        if self._sandbox != "wasm":  # WebAssembly as it is compiled there has one thread
            self.capabilities = self.capabilities | {"threads"}
        self._executor = Executor(self._sandbox, policy=self._policies["attack"], **rest)

    def open(self, tools: Any, kind: Any) -> Any:
        offered = {name: tool for name, tool in tools.items() if not name.startswith("__")}
        policy = self._policies["benign" if kind == "benign" else "attack"]
        return SafeExecSession(self._executor.session(offered, policy=policy))

    def close(self) -> None:
        self._executor.close()

    def version(self) -> Any:
        import safeexec

        return f"safeexec {safeexec.__version__}"


class SafeExecSession(Session):
    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, code: Any) -> Any:
        result = self._session.run(code)
        error = result.error
        return Outcome(
            result.value,
            result.stdout,
            result.stderr + "".join(str(v) for d in result.displays for v in d.data.values()),
            None if error is None else (error.kind, error.type, error.message + "\n" + error.traceback),
        )

    def alive(self) -> Any:
        return not self._session.closed

    def read(self, name: Any) -> Any:
        return self._session.files.read(name)

    def names(self) -> Any:
        return [info.name for info in self._session.files.list()]

    def get(self, name: Any) -> Any:
        return self._session.variables[name]

    def close(self) -> None:
        self._session.close()
