"""Images with packages, made once per run in a cache of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from safeexec_backends.wasm import image
from safeexec_backends.wasm.image import cache, packages
from safeexec_backends.wasm.image.pins import VERSION
from safeexec_backends.wasm.packages import prepare

from .archives import make_wheel


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with the plain image and nothing else."""
    image.ensure()
    common = cache.cache_directory()
    folder = tmp_path_factory.mktemp("cache")
    for name in (cache.key(), f"pyodide-{VERSION}"):
        shutil.copytree(common / name, folder / "wasm" / name, copy_function=_link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEEXEC_CACHE", str(folder))
        yield folder


LOCAL = {
    # Draws from the system's randomness when it is imported, so must not be imported ahead.
    "drawer": {"drawer.py": "import secrets\nTOKEN = secrets.token_hex(8)\n"},
    # Draws from random's generator, whose state every session gets anew.
    "shuffler": {"shuffler.py": "import random\nVALUE = random.random()\n"},
    "breaker": {"breaker.py": "import sys\nsys.broken = True\nraise RuntimeError('not \\x1b[2J today')\n"},
    "spinner": {"spinner.py": "import sys\nif not hasattr(sys, 'spun'):\n    while True: pass\n"},
    # They replace what is called after their import.
    "hanger": {
        "hanger.py": "import random\ndef forever():\n    while True: pass\nif not hasattr(random, 'hung'):\n    random.getstate = forever\n"
    },
    "mangler": {
        "mangler.py": "import builtins\nif not hasattr(builtins, 'mangled'):\n    builtins.print = lambda *_: 1 / 0\n"
    },
    "flooder": {"flooder.py": "import os\nwhile not hasattr(os, 'flooded'):\n    os.write(1, bytes(1 << 20))\n"},
    # Its extension module is imported by the session that uses it, from a function.
    "lazy": {
        "lazy/__init__.py": "def pack(x):\n    import msgpack\n    return msgpack.packb(x)\n",
        "lazy/data.txt": "data of the package",
    },
}


@pytest.fixture(scope="session")
def installed(own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The packages of an image: three from the index, one of them through a wheel made here, and wheels that misbehave."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, files in LOCAL.items():
        # Under a name that no index has.
        make_wheel(folder, f"safeexec_local_{name}", files, requires=("msgpack",) if name == "lazy" else ())
    wanted = ("attrs", "six", *(f"safeexec-local-{name}" for name in LOCAL))
    with pytest.MonkeyPatch.context() as patch:
        links = os.environ.get("PIP_FIND_LINKS", "")
        patch.setenv("PIP_FIND_LINKS", f"{links} {folder}".strip())
        patch.setattr(packages, "_IMPORT_SECONDS", 12.0)
        prepare.ensure(wanted)
    yield wanted
