"""The wasmtime C API, bound directly: engine, module, linker, instance and guest memory.

The `wasmtime` package supplies the library; its Python layer is not imported, because it costs 40 ms to import, walks all 8,500 exports of the
interpreter at the first look, and keeps an exception of a callback in one place for the whole process.
"""

from safeexec_backends.wasm.native import EngineError as EngineError

from .engine import Engine as Engine
from .instance import STATE_GLOBAL as STATE_GLOBAL
from .instance import STATE_TABLE as STATE_TABLE
from .instance import Instance as Instance
from .library import MASK32 as MASK32
from .library import STACK_OVERFLOW as STACK_OVERFLOW
from .library import Trap as Trap
from .library import library as library
from .memory import MAX_PAGES as MAX_PAGES
from .memory import PAGE as PAGE
from .memory import Fault as Fault
from .memory import Memory as Memory
from .program import Host as Host
from .program import HostFunction as HostFunction
from .program import Program as Program
