"""Turns what the guest program saw from inside a container into walls that stand, or do not and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safeexec.backend import Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy
from safeexec_backends.docker.config import WORKDIR, Shape, counts_sockets, memory, sizes

MINIMUM = (
    "network_namespace",
    "read_only_root",
    "capabilities",
    "no_new_privs",
    "unprivileged_uid",
    "memory_limit",
    "pids_limit",
)
_GVISOR_VERSION = "PST 2016"
"""gVisor answers /proc/version with a fixed text of January 2016. Source: gVisor, pkg/sentry/syscalls/linux/linux64.go."""
ENDS = "a step that runs out of a limit ends its session: "
_STANDS = Wall(True)
_ABSURD = 2**62
"""What the kernel says of bytes that it does not limit is above this."""
_SWAP = "the kernel does not account for swap, so a guest may swap as far as the host does"


def _wall(stands: bool, reason: str) -> Wall:
    return _STANDS if stands else Wall(False, reason)


def judge(seen: Mapping[str, Any], want: Shape, info: Mapping[str, Any]) -> dict[str, Wall]:
    """The walls of a container of shape `want`, from ``look.look()``, and for what gVisor hides from the daemon's ``info``.

    Runs before any untrusted code, so what was seen can be believed.
    """
    gvisor = _GVISOR_VERSION in seen["version"]
    walls: dict[str, Wall] = {}
    walls["gvisor"] = _wall(gvisor, "the host's kernel answers system calls; runtime='runsc' puts gVisor's between")
    calls = seen["calls"]
    if gvisor:
        walls["seccomp"] = Wall(
            False, "gVisor's own kernel answers the container's system calls; a filter has no place there"
        )
    elif seen["seccomp"] != "2":
        walls["seccomp"] = Wall(False, "the daemon set no filter: its kernel or build lacks seccomp")
    else:
        passed = [] if calls is None else [name for name, number in calls.items() if number not in (1, 38)]
        walls["seccomp"] = _wall(not passed, f"the filter lets through {', '.join(passed)}")
    others = [
        name
        for name in seen["interfaces"]
        if name
        not in ("lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0")
    ]
    walls["network_namespace"] = _wall(not others, f"network interfaces are visible: {', '.join(others)}")
    rights = [name for name, bits in seen["caps"].items() if bits]
    walls["capabilities"] = _wall(not rights, f"{', '.join(rights)} are not empty")
    walls["no_new_privs"] = _wall(
        seen["nnp"] == "1" or (gvisor and not seen["nnp"]), "set-user-id programs could gain privileges"
    )
    ids = {*seen["uid"], *seen["gid"], *seen["groups"]}
    walls["unprivileged_uid"] = _wall(ids == {65534}, f"runs with the ids {sorted(ids)}")
    walls["read_only_root"] = _root(seen)
    walls["disk_limit"] = _disk(seen, want)
    if gvisor:  # it shows the guest no control groups; it lies in one itself, with all that it holds for the guest
        total = seen["memory_total"]
        walls["memory_limit"] = _wall(
            bool(info.get("MemoryLimit")) and bool(total) and int(total[0]) * 1024 <= memory(want),
            "the daemon's kernel lacks the cgroup controller, or gVisor was not told of the limit",
        )
        walls["swap_off"] = _wall(bool(info.get("SwapLimit")), _SWAP)
        walls["pids_limit"] = _wall(
            bool(info.get("PidsLimit", True)), "the daemon's kernel lacks the cgroup controller"
        )
        walls["socket_memory"] = walls["memory_limit"]  # its sockets are its own memory
    else:
        walls["memory_limit"] = _limit(seen["memory"], _ABSURD, "memory")
        walls["swap_off"] = _swap(seen)
        walls["pids_limit"] = _limit(seen["pids"], 2**30, "process")
        walls["socket_memory"] = _sockets(seen, info)
    cores = seen["limits"].get("CORE")
    walls["rlimits"] = _wall(
        cores == [0, 0] and max(seen["limits"]["NOFILE"]) <= 1024 and min(seen["limits"]["FSIZE"]) > 0,
        f"the daemon did not apply them: {seen['limits']}",
    )
    walls["pid_namespace"] = _wall(seen["pid"] < 100, "processes of the host are visible")
    walls["init"] = _wall(
        seen["pid"] != 1, "the guest is process 1 of its container: children it leaves behind stay as zombies"
    )
    root = seen["uid_map"][:2]
    walls["user_namespace"] = _wall(
        gvisor or root != ["0", "0"],
        "the daemon maps user ids one to one; rootless docker, or userns-remap in daemon.json, maps them away",
    )
    walls["rollback"] = _rollback(seen, want)
    walls["language"] = Wall(False, "the whole language runs; Policy.imports is a rule for the model here, not a wall")
    return walls


def _rollback(seen: Mapping[str, Any], want: Shape) -> Wall:
    if not want.direct:
        # A frame that was cut off in the middle would be read on in the next one.
        reason = "its frames travel on a stream of the daemon's, which cannot be exchanged for another (gVisor, podman, a daemon elsewhere)"
        return Wall(False, ENDS + reason)
    return _wall(not seen["copies"], ENDS + seen["copies"])


def _root(seen: Mapping[str, Any]) -> Wall:
    root = [mount for mount in seen["mounts"] if mount[0] == "/"]
    if not root or not root[-1][2]:
        return Wall(False, "the root file system is mounted for writing")
    return _wall(not seen["writable"], f"files can be made in {', '.join(seen['writable'])}")


def _disk(seen: Mapping[str, Any], want: Shape) -> Wall:
    mounts = {mount[0]: mount for mount in seen["mounts"]}
    for path in (WORKDIR, "/tmp"):
        mount = mounts.get(path)
        if mount is None or mount[1] != "tmpfs":
            return Wall(False, f"{path} is not a file system of its own")
        size = sizes(want.disk)[path]
        if mount[3] and mount[3] >= size + seen["page"]:
            return Wall(False, f"{path} holds {mount[3]} bytes, not {size}")
        unbounded = not 0 < mount[4] <= max(1024, 2 * want.disk // 1024)
        if not mount[3] or (unbounded and not want.gvisor):
            return Wall(False, f"{path} has no limit on its {'inodes' if mount[3] else 'size'}")
    return _STANDS


def _limit(text: str, absurd: int, what: str) -> Wall:
    if text.isdigit():
        return _wall(int(text) < absurd, f"the daemon set no {what} limit: its kernel lacks the cgroup controller")
    if text == "max":
        return Wall(False, f"the daemon set no {what} limit: its kernel lacks the cgroup controller")
    return Wall(False, f"the {what} limit cannot be seen from inside")


def _sockets(seen: Mapping[str, Any], info: Mapping[str, Any]) -> Wall:
    if "ICMP" in seen["sockets"]:
        return Wall(False, "sockets for ICMP can be made, and no kernel counts what lies in them")
    return _wall(
        counts_sockets(info) or not seen["sockets"],
        "what lies in TCP and UDP sockets counts in no container's memory on the first version of control groups; loopback=False has none",
    )


def _swap(seen: Mapping[str, Any]) -> Wall:
    text = seen["swap"]
    # On the first version of control groups the limit is of both together, and without one both are the same absurd number.
    if text == "0" or (text.isdigit() and text == seen["memory"] and int(text) < _ABSURD):
        return _STANDS
    return Wall(False, _SWAP)


def require(walls: Mapping[str, Wall], policy: Policy) -> None:
    """Raise PolicyError or BackendUnavailable unless the walls that the policy asks for stand."""
    wanted = MINIMUM if policy.require is None else tuple(policy.require)
    for name in wanted:
        if name not in walls:
            raise PolicyError(f"Policy.require: the docker sandbox has no wall {name!r}; it has {', '.join(walls)}")
        if not walls[name].active:
            raise BackendUnavailable(
                f"the docker sandbox's wall {name!r} is required and missing: {walls[name].reason}. "
                "Policy(require=()) takes what there is"
            )
    if policy.require is None and not (walls["seccomp"].active or walls["gvisor"].active):
        raise BackendUnavailable(
            f"the docker sandbox needs seccomp or gVisor; seccomp is missing: {walls['seccomp'].reason}. "
            "Policy(require=()) takes what there is"
        )
