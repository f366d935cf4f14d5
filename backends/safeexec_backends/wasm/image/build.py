"""From Pyodide's files to a frozen interpreter: the stages of building an image."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.fs_nodes import base_tree
from safeexec_backends.wasm.functions import host_functions
from safeexec_backends.wasm.limits import NATIVE_STACK

from .boot import HANDLER_WORD, POINTERS, PROVIDED, SITE, STDLIB, BootError, Interpreter
from .errors import linux_numbers
from .freeze import freeze
from .library import compile_library, select, time_zones
from .link import Linked, link
from .pins import guest_files, own_library

STAGES: Final = ("fetch", "link", "compile", "library", "boot", "freeze", "compile image", "verify", "done")
ZONES: Final = "usr/share/zoneinfo/"
Progress = Callable[[str, int, int], None]
Found = dict[str, Any]
"""What the interpreter says of itself: where its generator's state and the guest program's handler are."""

_PRELUDE: Final = """
import abc, array, ast, asyncio, base64, bisect, calendar, cmath, collections.abc, contextlib, copy, csv, dataclasses
import datetime, decimal, difflib, enum, fractions, functools, gc, glob, gzip, hashlib, heapq, hmac, html, inspect, io
import itertools, json, keyword, linecache, logging, math, numbers, operator, os, pathlib, pprint, queue, random, re
import secrets, shutil, signal, stat, statistics, string, struct, sys, tempfile, textwrap, threading, time, tokenize
import traceback, types, typing, unicodedata, urllib.parse, uuid, warnings, weakref, zipfile, zlib, zoneinfo
import _strptime, encodings.ascii, encodings.idna, encodings.latin_1

os.chdir("/sandbox")
sys.path.insert(0, "/lib/safeexec")
import safeexec_runtime
sys.path.remove("/lib/safeexec")
sys.path.append("/sandbox")
sys.path_importer_cache.clear()
safeexec_runtime.fit()
asyncio.run(asyncio.sleep(0))
word = id(random._inst) + 8
print(json.dumps({"handler": id(safeexec_runtime.handle), "random": word, "state": random.getstate()[1]}))
del word
"""
_FINISH: Final = """
safeexec_runtime.warm()
safeexec_runtime.begin()
gc.collect()
safeexec_runtime.listen()
safeexec_runtime.immortalise()
safeexec_runtime.set_aside()
gc.collect()
gc.freeze()
del sys.modules["_safeexec_device"], sys.modules["safeexec_runtime"]
"""


class Image(NamedTuple):
    """What a build makes: the compiled module, the shared files, and what must be known to use them."""

    compiled: bytes
    files: Mapping[str, bytes | memoryview]
    facts: Mapping[str, Any]


def build(wasm: bytes, library: bytes, progress: Progress) -> Image:
    """Build an image. `progress(stage, number, of)` is called as each stage begins. Raises BootError, FormatError, EngineError."""

    def begin(stage: str) -> None:
        progress(stage, STAGES.index(stage), len(STAGES) - 1)

    begin("link")
    linked = link(wasm, PROVIDED, POINTERS)
    begin("compile")
    engine = abi.Engine(NATIVE_STACK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linked"
        path.write_bytes(engine.compile(linked.module))
        program = abi.Program(engine, engine.load(path), host_functions())
    begin("library")
    files: dict[str, bytes | memoryview] = {
        STDLIB[1:]: compile_library(program, select(library, own_library()), linked.missing)
    }
    files |= guest_files()
    files |= {ZONES + name: data for name, data in time_zones().items()}
    begin("boot")
    interpreter, found = start(program, files, linked)
    finish(interpreter, found)
    begin("freeze")
    frozen = freeze(linked.module, interpreter.instance)
    identity = hashlib.sha256(frozen).hexdigest()
    size = interpreter.host.memory.size
    interpreter.host.close()
    begin("compile image")
    compiled = engine.compile(frozen)
    facts = {
        "missing": linked.missing,
        "random": found["random"],
        "memory": size,
        "identity": identity,
    }
    return Image(compiled, files, facts)


def start(
    program: abi.Program,
    files: Mapping[str, bytes | memoryview],
    linked: Linked,
    reserved: tuple[int, int] | None = None,
    libraries: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[Interpreter, Found]:
    """An interpreter with the guest program in it; `reserved` and `libraries` as in merge.Merged. Raises BootError."""
    interpreter = Interpreter(program, base_tree(files), linked.missing)
    if libraries:
        interpreter.host.libraries = libraries
    if reserved is not None:
        interpreter.reserve(*reserved)
    interpreter.start((STDLIB, SITE))
    interpreter.add_device(linked.table)
    interpreter.protect_stack()
    interpreter.listen_for_signals()
    linux_numbers(interpreter)  # before a module is imported that remembers one
    return interpreter, json.loads(interpreter.run(_PRELUDE))


def finish(interpreter: Interpreter, found: Found) -> None:
    """Make it ready to be frozen. Raises BootError."""
    interpreter.run(_FINISH)
    memory = interpreter.host.memory
    memory.set_u32(HANDLER_WORD, found["handler"])
    _check_random(memory, found["random"], found["state"])
    interpreter.fill_holes()


def _check_random(memory: abi.Memory, word: int, state: list[int]) -> None:
    """Make sure that the generator's state is where every new instance will be given its own."""
    *words, position = state
    stored = [memory.u32(word + 4 * n) for n in range(len(words) + 1)]
    if stored != [position, *words]:
        raise BootError("the random generator's state is not where it was expected")
