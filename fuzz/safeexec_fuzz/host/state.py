"""What an attack must leave as it was in the host process, and values that it must not hand over alive."""

from __future__ import annotations

import builtins
import collections
import decimal
import functools
import gc
import io
import json
import logging
import math
import os
import pickle
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import typing
from typing import Any

_MODULES = (builtins, collections, decimal, functools, gc, io, json, json.decoder, json.encoder, logging, math, os, os.path, pickle,
            random, re, signal, socket, subprocess, threading, time, types, typing)  # fmt: skip
_CLASSES = (json.JSONEncoder, json.JSONDecoder, collections.OrderedDict, collections.UserDict, random.Random, logging.Logger,
            threading.Thread, subprocess.Popen)  # fmt: skip
_CHANGING = {("os", "environ")}  # looked at by its content
PROBES = ("6 * 7", "sorted([3, 1, 2]) + [len('abc'), max(4, 5), int('7')]", "import json\njson.dumps([1, None])",
          "import math\n[math.floor(2.5), math.pi]", "print('probe')", "str(12) + repr([1])")  # fmt: skip
"""Steps whose answers must be the same before and after, in a fresh session."""


# Bound now: an attack may replace them, and that is to be reported, not suffered.
_open, _readlink, _getrlimit, _getpriority = open, os.readlink, resource.getrlimit, os.getpriority
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def _of_the_kernel() -> Any:
    """What the kernel keeps about this process that a guest may want otherwise."""
    try:
        with _open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            umask = [line.strip() for line in status if line.startswith("Umask")]
        namespaces = [_readlink("/proc/self/ns/" + name) for name in _NAMESPACES]
    except OSError as error:  # no descriptor left, or no /proc any more: a change by itself
        umask = namespaces = [type(error).__name__]
    return namespaces, [_getrlimit(number) for number in range(16)], _getpriority(os.PRIO_PROCESS, 0), umask


def fingerprint() -> Any:
    """Name to identity or content of what is looked at."""
    found: dict[str, Any] = {}
    for module in _MODULES:
        for name, value in vars(module).items():
            if name[:1] != "_" or name == "__import__":
                if (module.__name__, name) not in _CHANGING:
                    found[module.__name__ + "." + name] = id(value)
    for kind in _CLASSES:
        for name, value in vars(kind).items():
            if not name.startswith("_abc") and name != "__doc__":
                found[kind.__qualname__ + "." + name] = id(value)
    found["cwd"] = os.getcwd()
    found["environ"] = tuple(sorted((k, v) for k, v in os.environ.items()))
    found["sys.path"] = tuple(sys.path)
    found["sys.recursionlimit"] = sys.getrecursionlimit()
    found["sys.stdio"] = (id(sys.stdout), id(sys.stderr), id(sys.stdin))
    found["sys.hooks"] = (id(sys.excepthook), id(sys.displayhook), id(sys.unraisablehook), id(sys.breakpointhook))
    found["sys.trace"] = (id(sys.gettrace()), id(sys.getprofile()))
    found["sys.meta_path"] = tuple(map(id, sys.meta_path))
    found["threading.excepthook"] = id(threading.excepthook)
    found["decimal.prec"] = decimal.getcontext().prec
    found["gc"] = gc.isenabled()
    found["signals"] = tuple(
        id(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1)
    )
    found["namespaces"], found["limits"], found["nice"], found["umask"] = _of_the_kernel()
    found["asyncgen hooks"] = tuple(map(id, sys.get_asyncgen_hooks()))
    found["modules"] = {name: id(module) for name, module in list(sys.modules.items())}
    return found


def changes(before: Any, after: Any) -> Any:
    """Names of what is not as it was. What was merely imported since is no change."""
    found = []
    for name, value in before.items():
        if name == "modules":
            found += [f"sys.modules[{k!r}]" for k, v in value.items() if after[name].get(k) != v and k in after[name]]
        elif after.get(name) != value:
            found.append(name)
    classes = tuple(kind.__qualname__ + "." for kind in _CLASSES)
    found += [name for name in after if name not in before and name.startswith(classes)]
    return [str(name)[:100] for name in found[:20]]


_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(Ellipsis))


def describe(value: Any, budget: Any = 400_000) -> Any:
    """``(text, live)``: the value as text and the type names of what in it is no plain data. Runs no code of the value's."""
    live: list[str] = []
    parts = []
    left = [budget]

    def name_of(kind: Any) -> Any:
        # type.__getattribute__: a metaclass of the guest's must not be asked.
        return str(type.__getattribute__(kind, "__name__"))

    def put(text: Any) -> None:
        left[0] -= len(text)
        parts.append(text)

    def walk(item: Any, depth: Any) -> None:
        kind = type(item)
        if left[0] < 0 or depth > 40:
            return
        if kind in _ATOMS:
            if kind is int and item.bit_length() > 10000:
                put(f"<int of {item.bit_length()} bits>")
            elif kind in (str, bytes, bytearray) and len(item) > left[0]:
                put(repr(item[: left[0] // 2]) + "..." + repr(item[-left[0] // 2 :]))
            else:
                put(repr(item))
        elif kind in (list, tuple, set, frozenset):
            put(f"{kind.__name__}(")
            for index, part in enumerate(item):
                if index > 20000:
                    break
                walk(part, depth + 1)
                put(", ")
            put(")")
        elif kind is dict:
            put("{")
            for index, (key, part) in enumerate(list(item.items())):
                if index > 20000:
                    break
                walk(key, depth + 1)
                put(": ")
                walk(part, depth + 1)
                put(", ")
            put("}")
        else:
            name = name_of(kind)
            module = str(type.__getattribute__(kind, "__module__"))
            put(f"<{module}.{name}>")
            if module.partition(".")[0] in ("safeexec", "datetime", "decimal", "fractions", "uuid", "pydantic_monty"):
                put(repr(item)[:100_000])  # classes of the target's own, whose repr runs nothing of the guest's
            elif len(live) < 10:
                live.append(name)

    walk(value, 0)
    return "".join(parts), live


def use(value: Any) -> None:
    """What a host does with a value without thinking: print it, compare it, hash it, look whether it is true."""
    for action in (
        repr,
        str,
        bool,
        hash,
        lambda v: v == 0,
        lambda v: 0 == v,
        lambda v: v in (1, "x"),
        lambda v: f"{v}",
        lambda v: sorted([v, v]),
    ):
        try:
            action(value)
        except Exception:
            continue
