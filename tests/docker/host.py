"""A host process that is killed with sessions open: prints a line when they run, then waits."""

import sys

from safeexec import Executor

executor = Executor("docker", pool=1)
session = executor.session()
assert session.run("1 + 1").value == 2
print("running", flush=True)
if sys.argv[1:] == ["busy"]:
    session.run("while True:\n    pass")
sys.stdin.read()
