"""An image with packages: their libraries linked in, their sources compiled, their modules imported, all of it frozen."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.fs_nodes import Directory, File, base_tree
from safeexec_backends.wasm.functions import host_functions
from safeexec_backends.wasm.host import Exited, Killed, ProtocolViolation
from safeexec_backends.wasm.limits import NATIVE_STACK

from . import build, dylink
from .binary import FormatError
from .boot import POINTERS, PROVIDED, SITE, STDLIB, BootError, Interpreter
from .freeze import freeze
from .growing import DRAWS
from .link import Linked, link
from .merge import Merged, merge

T = TypeVar("T")

STAGES: Final = (
    "resolve packages",
    "link",
    "compile",
    "bytecode",
    "import",
    "freeze",
    "compile image",
    "verify",
    "done",
)
LIBRARY: Final = b"linked into the interpreter\n"
"""What stands in a library's file: import looks whether it is there, and nobody reads it."""
MAX_LIBRARIES: Final = 1000
"""Whose dependencies are followed from each; the largest packages known have a hundred."""
_IMPORT_SECONDS: Final = 60.0
_IMPORTS_SECONDS: Final = 600.0
"""For all imports together, those among them that were tried again from the start."""
_COMPILE_SECONDS: Final = 600.0
_FINISH_SECONDS: Final = 120.0
_COMPILE = """
import importlib._bootstrap_external as bootstrap, importlib.util as util, os, warnings
warnings.simplefilter("ignore")
def build(source, target):
    for folder, _, names in os.walk(source):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py"):
                with open(path, "rb") as file:
                    data = file.read()
                try:
                    code = compile(data, path, "exec", dont_inherit=True, optimize=0)
                except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
                    continue  # templates, and tests for other Pythons: importing them says so
                cached = target + os.path.join(folder, "__pycache__", name[:-3] + "." + tag + ".pyc")
                os.makedirs(os.path.dirname(cached), exist_ok=True)
                with open(cached, "wb") as file:
                    file.write(bootstrap._code_to_hash_pyc(code, util.source_hash(data), False))
import sys
tag = sys.implementation.cache_tag
build(%r, "/tmp/compiled")
"""
# How an interpreter ends when code of a package breaks it.
_ENDINGS: Final = (abi.Trap, abi.Fault, Exited, ProtocolViolation)
# Its state is every session's state: what an import draws from the one generator would be the same in all of them.
_GENERATOR = "import random\nprint(hash(random.getstate()))"
# They bind `socket` and `ssl` when imported, and a session with a network has its own in their place.
_NETWORKED: Final = (
    "import sys\nprint([n for n in ('urllib3', 'httpcore', 'httpx', 'aiohttp', 'websockets') if n in sys.modules])"
)


class Bundle(NamedTuple):
    """What a set of packages brings: files by their path in the image, and the modules to import ahead."""

    files: Mapping[str, bytes]
    modules: tuple[str, ...]


def libraries(files: Mapping[str, bytes]) -> list[dylink.Side]:
    """The side modules among the files, in the order of their paths. Raises FormatError."""
    paths = sorted(path for path in files if _is_library(path))
    if len(paths) > MAX_LIBRARIES:
        raise FormatError(f"the packages have {len(paths)} libraries, and may have {MAX_LIBRARIES}")
    return [dylink.read(path, files[path]) for path in paths]


def _is_library(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.endswith(".so") or ".so." in name


def build_with(
    wasm: bytes, base: Mapping[str, bytes | memoryview], bundle: Bundle, progress: build.Progress
) -> build.Image:
    """Build an image with packages on the shared files of the one without. Raises BootError, FormatError, EngineError."""

    def begin(stage: str) -> None:
        progress(stage, STAGES.index(stage), len(STAGES) - 1)

    begin("link")
    linked = link(wasm, PROVIDED, POINTERS)
    merged = merge(linked, libraries(bundle.files))
    begin("compile")
    engine = abi.Engine(NATIVE_STACK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linked"
        path.write_bytes(engine.compile(merged.module))
        program = abi.Program(engine, engine.load(path), host_functions())
    linked = Linked(merged.module, merged.missing, linked.table)
    begin("bytecode")
    files = {path: LIBRARY if _is_library(path) else data for path, data in bundle.files.items()}
    files |= _bytecode(program, linked.missing, base[STDLIB[1:]], files)
    everything = {**base, **files}
    begin("import")
    refused: dict[str, str] = {}
    until = monotonic() + _IMPORTS_SECONDS
    while True:
        interpreter, found = _booted(program, everything, linked, merged)
        new = _import(interpreter, [name for name in bundle.modules if name not in refused], until)
        if not new:
            break
        # What a failed import left behind is no part of an image, so from the start again without it.
        refused |= new
        interpreter.host.close()
    try:  # what was imported may have changed anything that this calls
        _bounded(interpreter, _FINISH_SECONDS, lambda: build.finish(interpreter, found))
    except (Killed, *_ENDINGS) as error:
        raise BootError(f"the interpreter does not go on after the packages' imports: {error}") from error
    begin("freeze")
    frozen = freeze(merged.module, interpreter.instance)
    size = interpreter.host.memory.size
    interpreter.host.close()
    begin("compile image")
    facts: dict[str, Any] = {
        "missing": linked.missing,
        "random": found["random"],
        "memory": size,
        "identity": hashlib.sha256(frozen).hexdigest(),
        "libraries": merged.libraries,
        "imported": [name for name in bundle.modules if name not in refused],
        "not_imported": refused,
    }
    return build.Image(engine.compile(frozen), everything, facts)


def _booted(
    program: abi.Program, files: Mapping[str, bytes | memoryview], linked: Linked, merged: Merged
) -> tuple[Interpreter, build.Found]:
    interpreter, found = build.start(program, files, linked, merged.reserved, merged.libraries)
    until = monotonic() + _IMPORT_SECONDS
    for name in merged.setup:
        try:
            _bounded(interpreter, max(until - monotonic(), 0.0), partial(interpreter.instance.call, name))
        except Killed as error:
            raise BootError(
                f"the constructors of the packages' libraries take more than {_IMPORT_SECONDS:g} s"
            ) from error
        except _ENDINGS as error:
            raise BootError(f"a constructor of the packages' libraries failed: {error}") from error
    return interpreter, found


def _import(interpreter: Interpreter, modules: list[str], until: float) -> dict[str, str]:
    """Import modules; those that must not be imported ahead, with the reason."""
    refused: dict[str, str] = {}
    for name in modules:
        if monotonic() > until:  # a package may have any number of modules, each of which is slow
            refused[name] = f"the imports before it took more than {_IMPORTS_SECONDS:g} s"
            continue
        # The looks before and after are bounded as well: they call what an import may have replaced, or the allocator that it broke.
        before = None
        try:
            before = _bounded(interpreter, _IMPORT_SECONDS, partial(_state, interpreter))
            try:
                code = f"import importlib\nimportlib.import_module({name!r})"
                _bounded(interpreter, _IMPORT_SECONDS, partial(interpreter.run, code))
            except BootError as error:
                refused[name] = "".join(str(error).splitlines()[-1:])[:500] or "its import fails without a message"
                continue
            after = _bounded(interpreter, _IMPORT_SECONDS, partial(_state, interpreter))
        except Exception as error:  # a trap, an exit: the interpreter is of no more use
            if before is None and refused:
                return refused  # whose failed import did that
            if isinstance(error, Killed):
                return {**refused, name: f"its import takes more than {_IMPORT_SECONDS:g} s"}
            return {**refused, name: f"its import ends the interpreter: {error}"[:500]}
        if after.networked != before.networked:
            refused[name] = "it binds the network, which each session has of its own, when it is imported"
        if (after.drawn, after.generator) != (before.drawn, before.generator):
            refused[name] = "its import draws random numbers, which would be the same in every session"
    return refused


class _State(NamedTuple):
    """What an import that is made ahead must leave as it is."""

    networked: str
    generator: str
    drawn: int


def _state(interpreter: Interpreter) -> _State:
    networked, generator = interpreter.run(_NETWORKED), interpreter.run(_GENERATOR)
    return _State(networked, generator, _drawn(interpreter))


def _drawn(interpreter: Interpreter) -> int:
    """How often Python code asked for randomness: every time, less those of the libraries, which seed hash tables.

    Those seeds are shared by all sessions, like the seed of the interpreter's own hashes.
    """
    return interpreter.host.draws - interpreter.instance.global_value(DRAWS)


def _bounded(interpreter: Interpreter, seconds: float, action: Callable[[], T]) -> T:
    """Run code of a package; it is ended after `seconds`. Raises Killed."""
    timer = threading.Timer(seconds, interpreter.host.kill)
    timer.daemon = True
    timer.start()
    try:
        result = action()
    except Exception as error:
        if interpreter.host.killed:
            raise Killed from error
        raise
    finally:
        timer.cancel()
    if interpreter.host.killed:
        raise Killed
    return result


def _bytecode(
    program: abi.Program, missing: tuple[str, ...], stdlib: bytes | memoryview, files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The compiled form of every source, made by the interpreter that will import it. Raises BootError."""
    sources = {path: data for path, data in files.items() if path.endswith(".py")}
    interpreter = Interpreter(program, base_tree({STDLIB[1:]: stdlib, **sources}), missing)
    try:
        interpreter.start((STDLIB,))
        _bounded(interpreter, _COMPILE_SECONDS, lambda: interpreter.run(_COMPILE % SITE))
        root = interpreter.host.files.lookup("/tmp/compiled") if sources else None
        return dict(_walk(root, "")) if isinstance(root, Directory) else {}
    except Killed as error:
        raise BootError(f"compiling the packages' sources takes more than {_COMPILE_SECONDS:g} s") from error
    except _ENDINGS as error:
        raise BootError(f"compiling the packages' sources ended the interpreter: {error}") from error
    finally:
        interpreter.host.close()


def _walk(folder: Directory, path: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for name, node in folder.entries.items():
        if isinstance(node, Directory):
            found += _walk(node, f"{path}{name}/")
        elif isinstance(node, File):
            found.append((path + name, bytes(node.data)))
    return found


def code_key() -> bytes:
    """A digest of the code here, which decides what comes out beside that of the plain image."""
    digest = hashlib.sha256()
    for name in ("dylink.py", "relocate.py", "growing.py", "side.py", "merge.py", "packages.py"):
        digest.update(hashlib.sha256((Path(__file__).parent / name).read_bytes()).digest())
    return digest.digest()
