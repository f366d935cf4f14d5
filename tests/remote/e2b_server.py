"""A loopback E2B; started by ``Loopback``. Reads its settings from standard input, prints its address, ends when its input does."""

from __future__ import annotations

import json
import sys

from safeexec import Executor, Policy
from safeexec.serve.e2b import E2BServer
from safeexec.serve.http import Server
from tests.remote.faults import Faults
from tests.remote.machines import LocalMachine
from tests.support.plain import PlainBackend


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    policy = Policy(imports="*")
    with Executor(PlainBackend(policy), policy=policy) as executor:
        app = E2BServer(lambda asked: LocalMachine(executor, settings["env"]), settings["key"])

        def state() -> object:
            return [{"asked": s.asked, "network": s.network, "ends": s.ends} for s in app.sandboxes.values()]

        server = Server(Faults(app, state))
        print(server.url, flush=True)
        sys.stdin.read()
        server.close()
        app.close()


if __name__ == "__main__":
    main()
