"""Runs attacks in cells and reports what they reached; a program of its own, so that tests can run it as other users.

The language wall is off: the code has the whole of Python and the C library. Reads a JSON job on standard input, writes JSON results.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

SECRET = b"walls-driver-" + b"memory-canary"


def deny_namespaces(how: str) -> None:
    """Make the kernel refuse new namespaces from here on, as a container's seccomp profile does; "late": only to forked processes."""
    from safeexec_backends._hardening import bpf, libc, privileges, seccomp

    refuse = bpf.errno(errno.EPERM)
    new = 0x7E020000  # every CLONE_NEW*
    numbers = seccomp.NUMBERS[libc.MACHINE]
    actions: dict[int, bpf.Action] = dict.fromkeys(range(max(numbers.values()) + 1), bpf.ALLOW)
    actions[numbers["clone"]] = bpf.Rule((bpf.Within(0, 0xFFFFFFFF & ~new),), refuse)
    actions[numbers["clone3"]] = bpf.errno(errno.ENOSYS)
    if how != "late":
        actions[numbers["unshare"]] = actions[numbers["mount"]] = refuse
    privileges.no_new_privileges()
    program = bpf.assemble(seccomp.ARCHITECTURES[libc.MACHINE], actions, bpf.ALLOW, bpf.ALLOW)
    seccomp.apply(bpf.encode(program))


def main() -> None:
    job = json.load(sys.stdin)
    if job.get("deny_namespaces"):
        deny_namespaces(job["deny_namespaces"])
    from safeexec import Executor, Limits, Policy

    os.environ["WALLS_CANARY"] = "environment-canary"
    holder = ctypes.create_string_buffer(SECRET)
    known = {"driver_pid": os.getpid(), "secret_address": ctypes.addressof(holder), "secret_length": len(SECRET)}
    policy = Policy(limits=Limits(**job.get("limits", {})), require=job.get("require"))
    results = {}
    with Executor("local", policy=policy, _language="full", **job.get("options", {})) as executor:
        zygote = executor._backend._zygote  # type: ignore[attr-defined]
        isolation = {name: list(wall) for name, wall in executor.isolation.items()}
        for name, code in job["attacks"].items():
            if job.get("undone"):  # in a session that went back to its checkpoint, as a process that was woken for it
                with executor.session(variables={**job.get("known", {}), **known}) as session:
                    session.run("state = 1")
                    assert session.run("import os; os._exit(1)").rolled_back
                    result = session.run(code)
            else:
                result = executor.run(code, variables={**job.get("known", {}), **known})
            error = None if result.error is None else [result.error.kind, result.error.type, result.error.message]
            results[name] = {"value": result.value, "error": error, "stdout": result.stdout}
        after = executor.run("'alive'").value
    json.dump(
        {"isolation": isolation, "results": results, "after": after, "folder": zygote._folder}, sys.stdout, default=repr
    )


if __name__ == "__main__":
    main()
