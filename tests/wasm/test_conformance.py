"""The conformance suite on the wasm sandbox."""

from __future__ import annotations

from functools import partial

from safeexec.testing import conformance
from safeexec_backends.wasm import WasmBackend

TRAVEL = ("rollback", "fork", "snapshot")

TestInProcess = conformance(partial(WasmBackend, workers=0), capabilities=TRAVEL, package="msgpack")
TestWorkers = conformance(partial(WasmBackend, workers=2), capabilities=TRAVEL, package="msgpack")
