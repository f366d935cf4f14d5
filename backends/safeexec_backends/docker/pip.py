"""Which pip the image made of this interpreter gets, so that packages can be installed in it."""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from safeexec_backends.docker.install import WHEELS

ADVICE = (
    "install pip for the interpreter that the image is made of (Debian, Ubuntu: apt-get install python3-venv; elsewhere: python -m ensurepip), or use "
    "another interpreter, and run safeexec setup docker"
)


def find() -> Path | None:
    """A wheel of pip that this interpreter has for ensurepip, else the folder of the pip that it can import, else None."""
    # Distributions keep the wheels of ensurepip in a folder of their own, which need not be there: on Debian it comes with python3-venv.
    for folder in (bundled(), sysconfig.get_config_var("WHEEL_PKG_DIR")):
        wheels = Path(folder).glob("pip-*.whl") if folder else ()
        newest = max(wheels, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None)
        if newest is not None:
            return newest
    specification = importlib.util.find_spec("pip")
    package = Path(specification.origin).parent if specification is not None and specification.origin else None
    return package if package is not None and package.is_dir() else None


def bundled() -> Path:
    """Where CPython has its wheels: in the standard library, which the image gets in any case."""
    return Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled")


def packed() -> tuple[str, bytes] | None:
    """The path in the image and the contents of what it gets of pip; None where there is none, or it comes with the standard library."""
    found = find()
    if found is None or found.parent == bundled():
        return None
    if found.suffix == ".whl":
        return f"{WHEELS.lstrip('/')}/{found.name}", found.read_bytes()
    data = _zipped(found)
    return None if data is None else (f"{WHEELS.lstrip('/')}/pip-0-py3-none-any.whl", data)


def _zipped(package: Path) -> bytes | None:
    """A folder of pip as a file that runs like its wheel; None for one that leans on other packages, as some distributions' does."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, str(Path("pip", path.relative_to(package))))
    with tempfile.NamedTemporaryFile(suffix=".whl") as tried:
        tried.write(target.getvalue())
        tried.flush()
        command = [sys.executable, "-I", "-S", f"{tried.name}/pip", "--version"]
        ran = subprocess.run(command, capture_output=True, check=False)
    return target.getvalue() if ran.returncode == 0 else None
