"""The supervisor of one lane: it starts host processes, gives them cases, and watches from outside.

It is a process of its own and a subreaper, so that nothing below it gets away; the host under it may crash, hang or eat memory. Cases come as lines
of JSON on standard input, verdicts go as lines of JSON to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import oracles, processes
from .cases import Case, Step
from .world import World, host_command, python_environment, token

_START = 120.0
"""Seconds for a target to get ready; an image may have to be compiled."""
_TICK = 0.02
_CLOSE = 6.0
"""Seconds for a host that is told to end."""
_MAX_LINE = 24 << 20
_MAX_LOG = 64 << 20
"""Bytes that may be written on the host's own streams before it counts as a flood."""
_SETTLE = 0.3
"""Seconds that a process which is about to end anyway is given before it counts as left behind."""


class HostProcess:
    """One host process and the channel to it."""

    def __init__(self, target: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        self.limits = limits
        self.secret = token()
        self.folder = Path(tempfile.mkdtemp(prefix="safeexec-host-"))
        commands, self._commands = os.pipe()
        self._reports, reports = os.pipe()
        self.log = open(self.folder / "log", "w+b")
        work = self.folder / "work"
        work.mkdir()
        self.process = subprocess.Popen(
            host_command(target["python"], commands, reports),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            cwd=work,
            env=python_environment(self.secret),
            pass_fds=(commands, reports),
            start_new_session=True,
        )
        os.close(commands)
        os.close(reports)
        os.set_blocking(self._reports, False)
        self._buffer = b""
        self.capabilities: frozenset[str] = frozenset()
        self.version = ""
        self.batch = False
        self.broken = ""
        self.used = 0
        self.send({"adapter": target["adapter"], "options": {**target["options"], "limits": dict(limits)}})
        message = self._first()
        if message.get("t") != "ready":
            said = self.tail().strip()[-500:]
            self.broken = str(message["why"]) + (f"; it wrote: {said}" if said and message["t"] != "broken" else "")
        else:
            self.capabilities = frozenset(message["capabilities"])
            self.version, self.batch = str(message["version"]), bool(message["batch"])

    def _first(self) -> dict[str, Any]:
        """What the host says when it has tried its target, or why it says nothing."""
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            message = self.receive(min(deadline, time.monotonic() + _TICK))
            if os.fstat(self.log.fileno()).st_size > _MAX_LOG:
                return {"t": "flood", "why": "it floods its own output where it should get ready"}
            if message is None:
                continue
            if message.get("t") in ("ready", "broken"):
                return message
            code = _wait(self.process)
            ended = f"the process it runs in ended with {code}" if code is not None else "its channel was closed"
            return {"t": "ended", "why": f"{ended} while it ran the first probes"}
        return {"t": "late", "why": f"it did not answer the first probes within {_START:.0f} s"}

    def send(self, message: Mapping[str, Any]) -> None:
        """One line. A host that is gone does not read it; that shows soon enough."""
        data = (json.dumps(message) + "\n").encode()
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._commands, data) :]

    def receive(self, deadline: float) -> dict[str, Any] | None:
        """The next message, or None when the deadline passes or the channel ends. What is no message comes as ``{"t": "junk"}``."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._reports], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._reports, 1 << 20)
            if not piece:
                return {"t": "eof"}
            self._buffer += piece
            if len(self._buffer) > _MAX_LINE:
                return {"t": "junk"}
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return {"t": "junk"}
        return message if isinstance(message, dict) else {"t": "junk"}

    def tail(self) -> str:
        """The end of what the host wrote on its own streams."""
        return self.output()[-4000:].decode("utf-8", "replace")

    def output(self) -> bytes:
        """What the host wrote on its own streams since the last time, the first megabyte of it."""
        return os.pread(self.log.fileno(), 1 << 20, 0)

    def end(self, politely: bool) -> list[str]:
        """End it and all below it. The command lines of those that stayed although it ended by itself."""
        left = []
        if politely:
            self.send({"t": "end"})
            message = self.receive(time.monotonic() + _CLOSE)
            politely = message is not None and message.get("t") == "closed"
        if politely:
            try:
                self.process.wait(_CLOSE)
            except subprocess.TimeoutExpired:
                left.append("the host process itself, which cannot end")
            deadline = time.monotonic() + _SETTLE
            while (stayed := self._strangers()) and time.monotonic() < deadline:
                processes.reap(self.process.pid)
                time.sleep(_TICK)
            left += [f"{pid}: {processes.command(pid)}" for pid in stayed]
        processes.end_all_below(os.getpid(), self.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.log.close()
        os.close(self._commands)
        os.close(self._reports)
        processes.remove(self.folder)
        return left

    def _strangers(self) -> list[int]:
        return [pid for pid in processes.descendants(os.getpid()) if pid != self.process.pid]


class Lane:
    """Runs cases one after the other, in a host process that is kept while nothing went wrong in it."""

    def __init__(self, target: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        self.target, self.limits = target, limits
        self.host: HostProcess | None = None
        self.ran: list[Case] = []

    def ready(self) -> dict[str, Any]:
        """Start a host and say what it can do, or why it cannot."""
        host = self._host()
        return {
            "t": "ready",
            "broken": host.broken,
            "version": host.version,
            "capabilities": sorted(host.capabilities),
            "batch": host.batch,
        }

    def _host(self) -> HostProcess:
        if self.host is None:
            self.host = HostProcess(self.target, self.limits)
        return self.host

    def drop(self, politely: bool) -> list[str]:
        """End the host. What stayed behind, when it ended by itself."""
        host, self.host = self.host, None
        return host.end(politely) if host is not None else []

    def run(self, case: Case, alone: bool = False, again: bool = False) -> dict[str, Any]:
        """One verdict: outcome "contained", "escaped", "na", "broken"; for benign cases "ok" or "blocked"."""
        alone = alone or case.alone
        if alone and self.host is not None and self.host.used:
            left = self.drop(True)
            if left:
                return {"id": case.id, "outcome": "again", "left": left}
        host = self._host()
        if host.broken:
            self.drop(False)
            return self._verdict(case, "broken", why=host.broken)
        missing = [need for need in case.needs if need not in host.capabilities]
        if missing:
            return self._verdict(case, "na", why="it has no " + ", ".join(missing))
        host.used += 1
        started = time.monotonic()
        try:
            world = World(case)
        except OSError as error:  # no room, no descriptors: nothing ran, so nothing got out and nothing was contained
            return self._verdict(case, "broken", why=f"the files and listeners around it could not be made: {error}")
        try:
            observation = self._watch(case, world, host)
            keep = host.batch and not alone and observation.report is not None
            if not keep:
                observation.left = self.drop(observation.report is not None)
            world.listeners.look(os.getpid())
            effects = oracles.judge(case, world, observation, self.limits, host.secret)
        finally:
            world.close()
        if observation.may_be_others(self.limits) and not again:
            # Somebody else on the machine may have taken that memory, but hardly at the same moment twice.
            self.drop(False)
            return self.run(case, alone, again=True)
        seconds = time.monotonic() - started
        report = observation.report
        text = _excerpt(report)
        if case.kind == "benign":
            trouble = oracles.behaved(case, observation, "value" in host.capabilities)
            if effects and not trouble:
                trouble = "effects: " + ", ".join(f"{e.name} ({e.detail})" for e in effects)
            return self._verdict(case, "blocked" if trouble else "ok", why=trouble, seconds=seconds, text=text)
        if effects:
            if keep and host.batch:
                self.drop(True)  # whatever it did to the host must not be blamed on the next case
            return self._verdict(
                case, "escaped", effects=[[e.name, e.detail] for e in effects], seconds=seconds, text=text
            )
        if report is not None and report["broken"]:
            self.drop(True)
            return self._verdict(case, "broken", why=report["broken"], seconds=seconds)
        return self._verdict(case, "contained", seconds=seconds, text=text)

    def _verdict(self, case: Case, outcome: str, **more: Any) -> dict[str, Any]:
        return {"t": "verdict", "id": case.id, "outcome": outcome, **more}

    def _watch(self, case: Case, world: World, host: HostProcess) -> oracles.Observation:
        saw = oracles.Observation()
        own, limits = os.getpid(), self.limits
        baseline = processes.memory(processes.descendants(own))
        peak_at = 0.0
        # Of all lanes' processes: what another one has mapped is not held elsewhere. No case but those about memory is to answer for what the rest
        # of the machine does meanwhile.
        elsewhere = processes.MemoryOfNoProcess(os.getppid(), own) if case.effect == "memory" else None
        resting: tuple[float, float, float] | None = None
        data = case.data()
        for step in data["steps"]:
            step["code"] = world.fill(step["code"], host.process.pid)
            step["name"] = world.fill(step["name"], host.process.pid)
        host.send(
            {
                **data,
                "env": {world.env_name: world.secrets["env"]},
                "object": world.secrets["object"],
                "linger": case.linger,
            }
        )
        allowed = limits["wall"] if case.kind != "benign" else 4 * limits["benign_time"]
        if case.effect != "time":
            allowed += limits["patience"]
        step_started: float | None = None
        # Between steps the host works by itself: opening sessions, using results. An attack may hang it there as well.
        deadline = time.monotonic() + _START / 4
        nonce = secrets.token_hex(16)
        expected = "begin"
        index = 0
        while True:
            message = host.receive(min(deadline, time.monotonic() + _TICK))
            now = time.monotonic()
            if now >= peak_at or (message is not None and message.get("t") == "end"):
                peak_at = now + 0.05
                saw.memory = max(saw.memory, processes.memory(processes.descendants(own)) - baseline)
                if elsewhere is not None:
                    machine, files = elsewhere.grown()
                    saw.elsewhere, saw.files = max(saw.elsewhere, machine), max(saw.files, files)
            world.listeners.look(own)
            if max(saw.memory, saw.elsewhere, saw.files) > limits["memory"] + limits["memory_slack"]:
                saw.killed = "memory"
                break
            if os.fstat(host.log.fileno()).st_size > _MAX_LOG:
                saw.killed = "output"
                break
            if message is None:
                if now >= deadline:
                    saw.killed = "time"
                    if step_started is not None:
                        saw.step_seconds.append(now - step_started)
                    break
                if host.process.poll() is not None and not host._buffer:
                    message = {"t": "eof"}
                else:
                    continue
            kind = message.get("t")
            if kind == "eof":
                code = host.process.poll() if host.process.poll() is not None else _wait(host.process)
                saw.host_died = (
                    f"the host process ended with {code}" if code is not None else "the host's channel was closed"
                )
                break
            if kind == "begin" and expected == "begin" and message.get("step") == index:
                step_started, expected, deadline = now, "end", now + allowed + limits["grace"]
            elif kind == "end" and expected == "end" and message.get("step") == index and step_started is not None:
                saw.step_seconds.append(now - step_started)
                step_started, index, expected = None, index + 1, "begin"
                deadline = (
                    now + limits["settle"] + case.linger + (4 * limits["benign_time"] if case.kind == "benign" else 0)
                )
            elif kind == "rest" and expected == "begin" and case.linger:
                resting, expected = (now, *processes.processor(processes.descendants(own))), "rested"
            elif kind == "rested" and expected == "rested" and resting is not None:
                ran, waited = processes.processor(processes.descendants(own))
                saw.resting, expected = (ran - resting[1], waited - resting[2], now - resting[0]), "begin"
            elif kind == "done" and expected == "begin":
                host.send({"nonce": nonce})
                expected, deadline = "report", now + limits["settle"]
            elif kind == "report" and expected == "report" and secrets.compare_digest(str(message.get("nonce")), nonce):
                saw.report = message
                break
            else:
                # The host speaks in one order only. Anything else was written by someone who found the channel.
                saw.forged = f"a message {str(kind)[:40]!r} on the report channel that the host did not send"
                break
        saw.log = host.output() if saw.report is None or not host.batch else b""
        return saw


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(2)
    except subprocess.TimeoutExpired:
        return None


def _excerpt(report: Mapping[str, Any] | None) -> str:
    """What the last steps came to, for whoever reads the report. Hostile text."""
    if report is None or not report["steps"]:
        return ""
    step = report["steps"][-1]
    error = step["error"]
    parts = [f"{error[1]}: {error[2][:300]}" if error else "", step["stdout"][:200], step.get("value", "")[:200]]
    return "\n".join(part for part in parts if part and part != "None")[:600]


def main() -> None:
    """Entry point, with a folder of its own: the first line says what to attack, each further one is a case."""
    processes.become_subreaper()
    # One folder for all that is made here: an end that comes in the middle of a host's start leaves none behind.
    folder = sys.argv[1]
    try:
        os.mkdir(folder)
        os.chmod(folder, 0o755)  # hosts and guests of other users get to theirs, and see nothing else in it
        tempfile.tempdir = folder
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what ends all that is below
        _serve()
    finally:
        processes.end_all_below(os.getpid())
        processes.remove(folder)


def _serve() -> None:
    channel = sys.stdout
    setting = json.loads(sys.stdin.readline())
    lane = Lane(setting["target"], setting["limits"])

    def answer(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        answer(lane.ready())
        for line in sys.stdin:
            item = json.loads(line)
            if item.get("t") == "end":
                break
            steps = tuple(Step(**step) for step in item.pop("steps"))
            alone = item.pop("run_alone", False)
            case = Case(steps=steps, **item)
            verdict = lane.run(case, alone)
            if verdict["outcome"] == "again":
                answer({"t": "left", "left": verdict["left"]})
                verdict = lane.run(case, alone)
            answer(verdict)
        answer({"t": "end", "left": lane.drop(True)})
    finally:
        lane.drop(False)


if __name__ == "__main__":
    main()
