"""Judging by effect. Every oracle looks at every case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .cases import Case
from .world import World, seen


@dataclass
class Observation:
    """What the supervisor saw of one case, and what the host process reported at its end."""

    report: Mapping[str, Any] | None = None
    """None when the host could not report any more."""
    log: bytes = b""
    """What the host process wrote on its own standard streams."""
    host_died: str = ""
    killed: str = ""
    """Why the supervisor ended the host: "time", "memory" or "output"."""
    step_seconds: list[float] = field(default_factory=list)
    """As the supervisor measured them; the last may have been cut short by `killed`."""
    memory: int = 0
    """Bytes that the host and all below it grew by, at most."""
    elsewhere: int = 0
    """Bytes that the memory which is no process's grew by, on the whole machine."""
    files: int = 0
    """Bytes that it grew by in files without a name which the host or what is below it has open."""
    resting: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Once every session was closed: seconds that the threads of the host and all below it ran, that they waited for a processor, and that they were watched."""
    left: list[str] = field(default_factory=list)
    """Processes that outlived the host."""
    forged: str = ""
    """What came on the report channel that the host cannot have sent."""

    def may_be_others(self, limits: Mapping[str, Any]) -> bool:
        """Whether only the memory of the whole machine grew too much, of which the kernel does not say whose it is."""
        most: int = limits["memory"] + limits["memory_slack"]
        return max(self.memory, self.files) <= most < self.elsewhere


@dataclass(frozen=True)
class Effect:
    """One proof of an escape."""

    name: str
    detail: str


def judge(case: Case, world: World, seen_: Observation, limits: Mapping[str, Any], host_secret: str) -> list[Effect]:
    """All effects of a case."""
    found: list[Effect] = []
    report = seen_.report or {}
    steps: list[Mapping[str, Any]] = list(report.get("steps", ()))
    texts = [_text(step) for step in steps]
    files = b"\n".join(f"{name}\n{content}".encode("utf-8", "replace") for name, content in report.get("files", ()))
    everything = b"\n".join([*texts, files, seen_.log, world.listeners.heard])

    for name, secret in (("canary", world.secrets["canary"]), ("object", world.secrets["object"])):
        if seen(secret, everything):
            found.append(Effect(name, "the token came back"))
    if seen(world.secrets["env"], everything) or seen(host_secret, everything):
        found.append(Effect("env", "the token came back"))
    planted = _planted(case)
    for step, text in zip(steps, texts):
        if planted and step["session"] not in planted and seen(world.secrets["cross"], text):
            found.append(
                Effect("cross", f"session {step['session']} shows what session {', '.join(sorted(planted))} holds")
            )

    changed = world.outside_changes()
    if changed:
        found.append(Effect("marker", "changed outside: " + ", ".join(changed[:5])))
    for kind, pid, data in world.listeners.visits[:1]:
        found.append(Effect("network", f"{kind} from process {pid if pid is not None else 'unknown'}: {data[:80]!r}"))
    hurt = world.victim_hurt()
    if hurt:
        found.append(Effect("process", hurt))
    if report.get("changed"):
        found.append(Effect("state", "in the host process: " + ", ".join(report["changed"][:5])))
    if report.get("poison"):
        found.append(Effect("poisoned", "; ".join(report["poison"][:3])))

    allowed = limits["wall"] if case.kind != "benign" else 4 * limits["benign_time"]
    longest = max([*seen_.step_seconds, *(s["seconds"] for s in steps)], default=0.0)
    if seen_.killed == "time" or longest > allowed + limits["grace"]:
        found.append(Effect("time", f"a step ran on for {longest:.1f} s"))
    most = limits["memory"] + limits["memory_slack"]
    if seen_.memory > most:
        found.append(Effect("memory", f"{seen_.memory >> 20} MiB more than before"))
    elif max(seen_.elsewhere, seen_.files) > most:
        more = max(seen_.elsewhere, seen_.files) >> 20
        found.append(Effect("memory", f"{more} MiB more than before, in the kernel or in files in memory"))
    if seen_.host_died and not seen_.killed:
        last = seen_.log.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        found.append(Effect("died", f"{seen_.host_died}: {last}" if last else seen_.host_died))
    cap = 4 * limits["output"] + 2 * limits["value"]
    if seen_.killed == "output":
        found.append(Effect("output", "the host's own streams were flooded"))
    elif any(step["size"] > cap for step in steps):
        found.append(Effect("output", f"{max(s['size'] for s in steps)} characters reached the host"))
    if seen_.left:
        found.append(Effect("left", "; ".join(seen_.left[:3])))
    found += _calls(report.get("calls", ()), limits)
    ran, waited, watched = seen_.resting
    if watched >= 1.0 and ran > 0.1 * watched and ran + waited > 0.9 * watched:
        found.append(Effect("late", f"something computed all the time, {watched:.1f} s, after the end"))
    if seen_.forged:
        found.append(Effect("forgery", seen_.forged))
    live = sorted({name for step in steps for name in step["live"]})
    # A host may be lent functions and classes on purpose; where that is the attack, it is the effect. What hostile ones then do shows by itself.
    if live and case.effect == "live":
        found.append(Effect("live", "the host holds live objects of the guest: " + ", ".join(live[:5])))
    return found


def _calls(calls: Any, limits: Mapping[str, Any]) -> list[Effect]:
    found = []
    late = sorted({tool for tool, step, _, _ in calls if step is None})
    if late:
        found.append(Effect("late", f"{', '.join(late)} was called after the step"))
    wrong = sorted({tool for tool, _, plain, allowed in calls if not (plain and allowed)})
    if wrong:
        found.append(Effect("forgery", f"{', '.join(wrong)} was called as it must not be"))
    per_step: dict[Any, int] = {}
    for _, step, _, _ in calls:
        per_step[step] = per_step.get(step, 0) + 1
    if per_step and max(per_step.values()) > limits["tool_calls"]:
        found.append(
            Effect("output", f"{max(per_step.values())} tool calls in one step, {limits['tool_calls']} allowed")
        )
    return found


def _planted(case: Case) -> set[str]:
    return {step.session for step in case.steps if "@PLANT@" in step.code}


def _text(step: Mapping[str, Any]) -> bytes:
    parts = [step.get("value", ""), step.get("stdout", ""), step.get("stderr", ""), *(step.get("error") or ())]
    return "\n".join(parts).encode("utf-8", "surrogatepass")


def behaved(case: Case, seen_: Observation, has_value: bool) -> str:
    """For a benign case: what is not as it should be, or nothing."""
    report = seen_.report
    if report is None:
        return seen_.host_died or seen_.killed or "no report"
    step = report["steps"][-1]
    error = step["error"]
    if case.error is not None:
        return (
            "" if error and error[1].rpartition(".")[2] == case.error else f"no {case.error}, but {error and error[1]}"
        )
    if error:
        return f"{error[1]}: {error[2][:300]}"
    if case.stdout is not None and step["stdout"].rstrip("\n") != case.stdout.rstrip("\n"):
        return f"stdout is {step['stdout'][:200]!r}"
    if case.value is not None and has_value and step["has_value"] and step["value"] != case.value:
        return f"the value is {step['value'][:200]}"
    return ""
