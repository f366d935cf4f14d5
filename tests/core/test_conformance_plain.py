"""The conformance suite on the bare subprocess: everything the core owes by itself."""

from __future__ import annotations

from safeexec import Policy
from safeexec.testing import conformance
from tests.support.plain import PlainBackend

NO_WALL = "a bare subprocess has no wall around it"

TestPlain = conformance(
    PlainBackend,
    policy=Policy(imports="*"),
    modules=("numpy", "pandas", "PIL", "matplotlib"),
    deviations=dict.fromkeys(
        (
            "test_host_file_is_not_read",
            "test_host_file_is_not_written",
            "test_no_program_of_the_host_is_started",
            "test_network_is_not_reached",
            "test_process_of_the_host_is_not_signalled",
            "test_sessions_share_no_temporary_files",
        ),
        NO_WALL,
    ),
)
