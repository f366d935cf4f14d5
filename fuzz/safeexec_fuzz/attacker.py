"""One supervisor with one target, asked one case at a time: what the fuzzers attack through."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from .audit import LIMITS, WEAK, Supervisor, plain
from .cases import Case, Step
from .targets import Target


class Unusable(RuntimeError):
    """The target could not be started; the message says why."""


class Attacker:
    """Runs single cases against a target. Raises Unusable. Close it, or use it as a context manager."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._process = Supervisor()
        limits = {**LIMITS, **(WEAK if target.adapter == "weak" else {})}
        ready = self._ask({"target": target.data(), "limits": limits})
        self.capabilities = frozenset(ready["capabilities"])
        if ready["broken"]:
            self.close()
            raise Unusable(f"{target.name}: {ready['broken'][-1500:]}")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise Unusable(f"{self.target.name}: the supervisor ended")
            answer: dict[str, Any] = json.loads(line)
            if answer["t"] != "left":
                return answer

    def attack(self, code: str, effect: str = "canary") -> list[tuple[str, str]]:
        """The effects of a program; none when it was contained."""
        case = Case("generated", "generated", "attack", "", (Step(code),), effect=effect)
        verdict = self._ask({**plain(case), "run_alone": False})
        if verdict["outcome"] == "broken":
            return [("died", "the host is broken: " + str(verdict.get("why", ""))[-300:])]
        return [(name, detail) for name, detail in verdict.get("effects", ())]

    def close(self) -> None:
        """End the supervisor and all below it."""
        self._process.end()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
