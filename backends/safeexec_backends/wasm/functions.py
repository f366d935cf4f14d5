"""All host functions, by the module and name they are imported under."""

from __future__ import annotations

from . import abi, syscalls_files, syscalls_io, syscalls_system, syscalls_time
from .syscalls import TABLE

# Importing these fills the table.
REGISTERED = (syscalls_files, syscalls_io, syscalls_system, syscalls_time)


def host_functions() -> dict[tuple[str, str], tuple[abi.HostFunction, str, str]]:
    """The table in the form that Program wants."""
    return {(call.namespace, name): (call.function, call.parameters, call.result) for name, call in TABLE.items()}
