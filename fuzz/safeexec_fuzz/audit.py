"""Running the corpus against targets: lanes of supervisors, one queue of cases, verdicts as they come."""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from . import processes
from .cases import Case
from .targets import Target

LIMITS: dict[str, Any] = {
    "time": 1.0,
    "wall": 4.0,
    "tool_time": 1.0,
    "memory": 128 << 20,
    "output": 200_000,
    "value": 1_000_000,
    "tool_calls": 50,
    "benign_time": 15.0,
    "grace": 4.0,
    "settle": 20.0,
    "memory_slack": 256 << 20,
    "patience": 0.0,
}
"""What targets are given, and how far beyond it an effect counts. Seconds, bytes, calls."""

WEAK = {"wall": 1.0, "grace": 1.0, "settle": 6.0, "patience": 20.0}
"""The weak executor has no limits: its endless loops are given up early, and what takes its time before it bites gets it."""

_END = 30.0
"""Seconds that a supervisor gets to end all that is below it."""

Progress = Callable[[str, "Verdict | None", int, int], None]
"""Called with the target's name, a verdict, how many are done, and of how many; from several threads, one at a time."""


_BELOW = 64
"""Bytes that names below the folder of all temporary files may take up to the Unix socket of a case."""

_SOCKET_PATH = 107
"""Bytes a Unix socket's path may have (sun_path in unix(7), without the zero at its end)."""


def _ground() -> str:
    """Where folders of supervisors go: where temporary files go, or /tmp where a Unix socket's path would be too long there."""
    found = tempfile.gettempdir()
    return found if len(os.fsencode(found)) + _BELOW <= _SOCKET_PATH else "/tmp"


class Supervisor(subprocess.Popen[str]):
    """A supervisor that waits for its target, on standard input and output."""

    def __init__(self) -> None:
        # Named here and made there: whichever of the two is ended, the other knows what to remove.
        self.folder = os.path.join(_ground(), f"safeexec-audit-{secrets.token_hex(8)}")
        super().__init__(
            # -P: a folder in which somebody audits may be a stranger's, with a json.py of his own.
            [sys.executable, "-P", "-m", "safeexec_fuzz.supervisor", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def end(self) -> None:
        """Have it end with all below it, wait for that, and see to it that nothing is left."""
        assert self.stdin is not None and self.stdout is not None
        try:
            self.stdin.close()  # it ends what is below it when nobody speaks to it any more
        except BrokenPipeError:
            pass
        self.wait()
        self.stdout.close()
        processes.remove(self.folder)


@dataclass(frozen=True)
class Verdict:
    """What came of one case against one target."""

    case: Case
    outcome: str
    """"contained", "escaped", "na", "broken"; for benign cases "ok", "blocked", "na", "broken"."""
    effects: tuple[tuple[str, str], ...] = ()
    why: str = ""
    seconds: float = 0.0
    text: str = ""
    """What the target answered. Hostile."""
    validated: bool = False
    """Whether the weak executor was seen to be bitten by this very case."""


@dataclass
class Outcome:
    """All verdicts of one target."""

    target: Target
    version: str = ""
    broken: str = ""
    """Why the target could not be started at all."""
    left: list[str] = field(default_factory=list)
    """Processes that stayed behind and could not be laid at one case's door."""
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, kind: str, *outcomes: str) -> int:
        """How many cases of a kind ("attack" or "benign") had one of the outcomes."""
        return sum((v.case.kind == "benign") == (kind == "benign") and v.outcome in outcomes for v in self.verdicts)

    @property
    def escapes(self) -> list[Verdict]:
        """The attacks that got out."""
        return [v for v in self.verdicts if v.outcome == "escaped"]


def bitten() -> dict[str, str]:
    """Case id to digest of the cases that the weak executor was seen to be bitten by, as recorded with the package."""
    text = (files(__package__) / "corpus" / "validated.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


class _Lane(threading.Thread):
    """One supervisor process, and the thread that feeds it."""

    def __init__(self, run: _Run) -> None:
        super().__init__(daemon=True)
        self._run = run
        self.ready: dict[str, Any] = {}

    def run(self) -> None:
        while True:
            process = Supervisor()
            self._run.processes.append(process)
            try:
                if self._serve(process):
                    return
            finally:
                process.end()

    def _serve(self, process: subprocess.Popen[str]) -> bool:
        assert process.stdin is not None and process.stdout is not None
        run = self._run
        case: Case | None = None
        try:
            _write(process, {"target": run.target.data(), "limits": run.limits})
            self.ready = json.loads(process.stdout.readline())
            if self.ready["broken"]:
                run.unusable(self.ready["broken"])
                return True
            run.outcome.version = self.ready["version"]
            while (item := run.take()) is not None:
                case, alone = item
                _write(process, {**plain(case), "run_alone": alone})
                while True:
                    message = json.loads(process.stdout.readline())
                    if message["t"] == "verdict":
                        break
                    run.stayed(message["left"])
                run.note(case, message, alone)
                case = None
            _write(process, {"t": "end"})
            run.stayed(json.loads(process.stdout.readline())["left"])
            return True
        except (ValueError, OSError) as error:
            # The supervisor itself was ended, by an attack for all we know: that is an effect, and the other cases go on.
            if run.stopped:
                return True
            if case is None:
                run.unusable(f"the supervisor ended: {error}")
                return True
            run.note(
                case, {"outcome": "escaped", "effects": [["process", "the supervisor of the host was ended"]]}, True
            )
            return False


def _write(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def plain(case: Case) -> dict[str, Any]:
    """A case as plain data, for a supervisor."""
    return {
        **{name: getattr(case, name) for name in Case.__dataclass_fields__ if name not in ("steps", "digest")},
        "steps": [vars(step) for step in case.steps],
    }


_DOUBTFUL = {"time", "memory", "left", "late"}
"""Effects that a busy machine can feign: an escape by these alone is run once more, by itself, and must show again."""


class _Run:
    """One target's cases, handed to its lanes."""

    def __init__(
        self,
        target: Target,
        cases: Sequence[Case],
        limits: dict[str, Any],
        validated: dict[str, str],
        progress: Progress | None,
    ) -> None:
        self.target, self.limits, self._validated, self._progress = target, limits, validated, progress
        self.outcome = Outcome(target)
        self.processes: list[subprocess.Popen[str]] = []
        self.stopped = False
        self._total = len(cases)
        self._rest: queue.SimpleQueue[tuple[Case, bool]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # What takes its time first: the lanes then end together.
        for case in sorted(cases, key=lambda c: (c.effect not in ("time", "memory"), c.alone)):
            self._rest.put((case, False))

    def take(self) -> tuple[Case, bool] | None:
        """The next case, and whether it is to run alone."""
        if self.stopped or self.outcome.broken:
            return None
        try:
            return self._rest.get_nowait()
        except queue.Empty:
            return None

    def note(self, case: Case, message: dict[str, Any], alone: bool) -> None:
        """Take a verdict, or have the case run again where it is in doubt."""
        effects = tuple((str(name), str(detail)) for name, detail in message.get("effects", ()))
        doubtful = self.target.adapter != "weak" and effects and {name for name, _ in effects} <= _DOUBTFUL
        if doubtful and not alone:
            self._rest.put((case, True))
            return
        verdict = Verdict(
            case,
            message["outcome"],
            effects,
            message.get("why", ""),
            message.get("seconds", 0.0),
            message.get("text", ""),
            self._bites(case, message["outcome"], effects),
        )
        with self._lock:
            self.outcome.verdicts.append(verdict)
            if self._progress is not None:
                self._progress(self.target.name, verdict, len(self.outcome.verdicts), self._total)

    def _bites(self, case: Case, outcome: str, effects: tuple[tuple[str, str], ...]) -> bool:
        if self.target.adapter == "weak":  # this run is the better record
            return outcome == "escaped" and case.effect in {name for name, _ in effects}
        return self._validated.get(case.id) == case.digest

    def stayed(self, left: list[str]) -> None:
        """Processes that several cases' host left behind."""
        self.outcome.left += left

    def unusable(self, why: str) -> None:
        """The target cannot be started."""
        self.outcome.broken = why


def run(
    target: Target,
    cases: Sequence[Case],
    *,
    jobs: int = 0,
    limits: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run the cases against a target in `jobs` lanes (default: one per core) and return the verdicts by category and id."""
    chosen = {**LIMITS, **(WEAK if target.adapter == "weak" else {}), **(limits or {})}
    work = _Run(target, cases, chosen, bitten(), progress)
    started = time.monotonic()
    count = max(1, min(jobs or os.cpu_count() or 1, len(cases)))
    lanes: list[_Lane] = []
    try:
        lanes += [_Lane(work) for _ in range(count)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        # An escape in doubt may have come back when the other lanes had gone home already.
        while not work.outcome.broken and (more := work.take()) is not None:
            work._rest.put(more)
            lanes.append(_Lane(work))
            lanes[-1].start()
            lanes[-1].join()
    finally:
        work.stopped = True
        for process in work.processes:
            if process.poll() is None and process.stdin is not None:
                process.terminate()
        # A supervisor that was only just starting ends without removing its folder: its lane does that.
        for lane in lanes:
            if lane.ident is not None:
                lane.join(_END)
    outcome = work.outcome
    if outcome.broken:
        done = {v.case.id for v in outcome.verdicts}
        outcome.verdicts += [Verdict(case, "broken", why=outcome.broken) for case in cases if case.id not in done]
    outcome.verdicts.sort(key=lambda v: (v.case.kind == "benign", v.case.category, v.case.id))
    outcome.seconds = time.monotonic() - started
    return outcome
