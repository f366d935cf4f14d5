"""The loop of the host process: take a case, run it against the target, report.

Lines of JSON come on one descriptor and go on another; both have numbers that the guest is not told and are closed in every program that is
started. A report carries a nonce that the supervisor gives out only when the case is over. What can be seen from outside is not reported here.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

from . import adapter, state
from .tools import Bench

# Bound now: an attack on a target in this process may replace them, and that is to be reported, not suffered.
_dumps, _loads = json.dumps, json.loads
TEXT = 400_000
"""Characters of each text that are reported; its length is reported whole."""


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _why(error: BaseException) -> str:
    """What went wrong with a target, for whoever named it: without the lines of this harness and of the import system."""
    if type(error).__module__ == "safeexec.errors":  # says by itself what to do
        return str(error)[:4000]
    own = [
        entry
        for entry in traceback.extract_tb(error.__traceback__)
        if not entry.filename.startswith((_HERE, "<frozen"))
        and os.path.basename(os.path.dirname(entry.filename)) != "importlib"
    ]
    lines = traceback.format_exception_only(type(error), error)
    if own:
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(own), *lines]
    return "".join(lines).strip()[-4000:]


def _answered(probes: Any) -> str:
    """Nothing if the target ran any of the probes, else what it did: who runs nothing contains everything."""
    if any(value == "42" or "probe" in (value.strip("'"), out.strip()) for value, out, _ in probes):
        return ""
    said = [error for _, _, error in probes if error]
    what = f"; the first one ended with {said[0]}" if said else ", and it failed at none"
    return "it ran no program: neither the value of 6 * 7 nor the output of print('probe') came back" + what


class Host:
    def __init__(self, commands: Any, reports: Any) -> None:
        self._commands = os.fdopen(commands, "r", encoding="utf-8", closefd=True)
        self._reports = reports
        self._values = False

    def send(self, message: Any) -> None:
        data = (_dumps(message) + "\n").encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(self._reports, data) :]

    def serve(self) -> None:
        """Run until there are no more commands."""
        hello = json.loads(self._commands.readline())
        try:
            target = adapter.load(hello["adapter"], hello["options"])
            if target.batch:  # what the target prepares once must not look like an attack's doing
                self._probe(target, self._bench(), [])
            probes = self._probe(target, self._bench(), None)
            nothing = _answered(probes)
            if nothing:
                self.send({"t": "broken", "why": nothing})
                return
            self._values = probes[0][0] == "42"  # whether this target hands over the value of a last expression
        except BaseException as error:
            self.send({"t": "broken", "why": _why(error)})
            return
        self.send(
            {
                "t": "ready",
                "capabilities": sorted(target.capabilities),
                "version": target.version(),
                "batch": target.batch,
            }
        )
        for line in self._commands:
            case = json.loads(line)
            if case.get("t") == "end":
                break
            self._case(target, case, probes)
        target.close()
        self.send({"t": "closed"})

    def _bench(self, token: Any = "") -> Any:
        return Bench(token)

    def _probe(self, target: Any, bench: Any, wanted: Any) -> Any:
        """The answers of a fresh session to the probes; with `wanted`, those that differ."""
        answers = []
        session = target.open(bench.all, "benign")
        try:
            for code in state.PROBES:
                try:
                    outcome = session.run(code)
                    answers.append(
                        [
                            state.describe(outcome.value)[0],
                            _plain(outcome.stdout)[:100],
                            ": ".join(str(part) for part in outcome.error[1:])[:300] if outcome.error else "",
                        ]
                    )
                except Exception as error:
                    answers.append(["", "", f"{type(error).__name__}: {error}"[:300]])
        finally:
            session.close()
        if wanted is None or not wanted:
            return answers
        return [code for code, is_, was in zip(state.PROBES, answers, wanted) if is_ != was and not was[2]]

    def _case(self, target: Any, case: Any, probes: Any) -> None:
        for name, text in case["env"].items():
            os.environ[name] = text
        bench = self._bench(case["object"])
        before = state.fingerprint()
        steps: list[Any] = []
        sessions: dict[str, Any] = {}
        poison: list[str] = []
        try:
            for index, step in enumerate(case["steps"]):
                steps.append(self._step(target, case, step, sessions, bench, index))
            same = self._same_session(sessions, bench) if probes[0][0] == "42" else []
            files = self._files(sessions)
            for session in sessions.values():
                session.close()
            if case["linger"]:
                self.send({"t": "rest"})
                time.sleep(case["linger"])
                self.send({"t": "rested"})
            fresh = self._probe(target, self._bench(), probes)
            poison = same + ["a fresh session: " + code for code in fresh]
            broken = ""
        except Exception as error:
            broken = "".join(traceback.format_exception(type(error), error, error.__traceback__))[-4000:]
            files = []
        changed = state.changes(before, state.fingerprint())
        for name in case["env"]:
            os.environ.pop(name, None)
        self.send({"t": "done"})
        nonce = _loads(self._commands.readline())["nonce"]
        self.send(
            {
                "t": "report",
                "nonce": nonce,
                "steps": steps,
                "calls": bench.calls,
                "changed": changed,
                "poison": poison,
                "files": files,
                "broken": broken,
            }
        )

    def _step(self, target: Any, case: Any, step: Any, sessions: Any, bench: Any, index: Any) -> Any:
        name = step["session"]
        report = {
            "session": name,
            "op": step["op"],
            "text": "",
            "error": None,
            "live": [],
            "size": 0,
            "seconds": 0.0,
            "raised": "",
        }
        if name not in sessions:
            sessions[name] = target.open(bench.all, case["kind"])
        session = sessions[name]
        self.send({"t": "begin", "step": index})
        started = time.monotonic()
        bench.step = index
        try:
            if step["op"] == "close":
                session.close()
                sessions.pop(name)
                outcome = adapter.Outcome(has_value=False)
            elif step["op"] == "read":
                outcome = adapter.Outcome(session.read(step["name"]))
            elif step["op"] == "get":
                outcome = adapter.Outcome(session.get(step["name"]))
            else:
                outcome = session.run(step["code"])
        except Exception as error:
            outcome = adapter.Outcome(None, "", "", ("raised", type(error).__name__, str(error)[:2000]))
            report["raised"] = type(error).__name__
        finally:
            bench.step = None
        report["seconds"] = time.monotonic() - started
        self.send({"t": "end", "step": index})
        text, live = state.describe(outcome.value)
        out, err = _plain(outcome.stdout), _plain(outcome.stderr)
        failure = outcome.error and [str(part) for part in outcome.error]
        if type(outcome.value) in (str, bytes, list):
            report["size"] = len(outcome.value)
        report["size"] += len(text) + len(out) + len(err) + (len(failure[2]) if failure else 0)
        report["value"] = text[:TEXT]
        report["stdout"] = _cut(out)
        report["stderr"] = _cut(err)
        report["error"] = failure and [part[:100_000] for part in failure]
        report["live"] = live
        report["has_value"] = outcome.has_value and self._values
        state.use(outcome.value)
        return report

    def _same_session(self, sessions: Any, bench: Any) -> Any:
        """Whether an open session still answers what it is asked: an answer left behind by an earlier step must not be taken for this one's."""
        wrong = []
        for name, session in sessions.items():
            if not session.alive():
                continue
            bench.step = -1
            try:
                outcome = session.run("6 * 7")
            except Exception:
                continue
            finally:
                bench.step = None
            if outcome.has_value and outcome.error is None and not (type(outcome.value) is int and outcome.value == 42):
                wrong.append(f"session {name} answers 6 * 7 with {state.describe(outcome.value)[0][:100]}")
        return wrong

    def _files(self, sessions: Any) -> Any:
        """What the files of the open sessions hold, read through the target."""
        found = []
        for session in sessions.values():
            if not session.alive():
                continue
            try:
                for name in session.names()[:20]:
                    found.append([str(name)[:200], session.read(name)[:65536].decode("latin-1")])
            except Exception as error:
                found.append(["", type(error).__name__])
        return found


def _plain(text: Any) -> str:
    """What a target called its output, whatever type it has."""
    return text if type(text) is str else text.decode("utf-8", "replace") if type(text) is bytes else str(text)


def _cut(text: Any) -> Any:
    return text if len(text) <= TEXT else text[: TEXT // 2] + text[-TEXT // 2 :]


def main(commands: Any, reports: Any) -> None:
    """Entry point of the process."""
    for descriptor in (commands, reports):
        os.set_inheritable(descriptor, False)
    sys.setrecursionlimit(1000)
    Host(commands, reports).serve()
