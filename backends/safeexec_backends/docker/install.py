"""Runs in the container that makes an image with packages, as text: standard library only, CPython 3.9 and later.

Its arguments are requirements. What of the environment is pip's comes over stdin: the container's own environment would become the image's, and with it that
of every session, credentials of an index included. pip is the image's own, else a wheel of it that an interpreter has for `ensurepip`. `ensurepip` itself is not asked: Debian
switches it off, or leaves it away.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import sysconfig

NO_PIP = 70
"""The exit code where there is no pip. pip's own are below 30."""
WHEELS = "/usr/local/share/safeexec/wheels"
"""Where an image that is made of the host's interpreter has a wheel of pip, if not in its standard library."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
FONTS = "/usr/local/share/safeexec/matplotlib"

# In a process of its own, which looks where the guest will look: distributions have patched places to install to and places to import from.
_CHECK = """
import importlib.metadata, re, sys
def normal(name):
    return re.sub("[-_.]+", "-", name).lower()
there = {normal((found.metadata or {}).get("Name") or "") for found in importlib.metadata.distributions()}
absent = [name for name in sys.argv[1:] if normal(re.match("[A-Za-z0-9._-]+", name)[0]) not in there]
if absent:
    sys.exit(f"pip installed {', '.join(absent)} where this interpreter does not look: {', '.join(sys.path)}")
"""


def _run(*arguments: str, quiet: bool = False) -> int:
    """``-I``, as the guest is run: nothing is installed for a user, where a container would not find it."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.call([sys.executable, "-I", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _pip() -> list[str] | None:
    if _run("-m", "pip", "--version", quiet=True) == 0:
        return ["-m", "pip"]
    bundled = os.path.join(os.path.dirname(os.__file__), "ensurepip", "_bundled")
    for folder in (bundled, sysconfig.get_config_var("WHEEL_PKG_DIR"), WHEELS):
        for wheel in sorted(glob.glob(os.path.join(folder, "pip-*.whl"))) if folder else ():
            if _run(f"{wheel}/pip", "--version", quiet=True) == 0:  # a wheel of pip runs as it is
                return [f"{wheel}/pip"]
    return None


def main(wanted: list[str]) -> None:
    size = int.from_bytes(sys.stdin.buffer.read(4), "little")
    os.environ.update(json.loads(sys.stdin.buffer.read(size)))
    # The image's, made of the host's where it is ours: pip alone would trust only what it brings along.
    if os.path.exists(CERTIFICATES):
        os.environ.setdefault("PIP_CERT", CERTIFICATES)
    pip = _pip()
    if pip is None:
        sys.exit(NO_PIP)
    code = _run(*pip, "install", "--no-cache-dir", "--root-user-action=ignore", *wanted) or _run("-c", _CHECK, *wanted)
    if code:
        sys.exit(code)
    _run("-m", "compileall", "-q", os.path.dirname(os.__file__), quiet=True)
    # Making matplotlib's font cache takes seconds; the guest copies this one.
    os.environ["MPLCONFIGDIR"] = FONTS
    if _run("-c", "import matplotlib", quiet=True) == 0:
        os.makedirs(FONTS, exist_ok=True)
        _run("-c", "import matplotlib.font_manager")
        for folder, _, files in os.walk(FONTS):
            os.chmod(folder, 0o755)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o644)


if __name__ == "__main__":
    main(sys.argv[1:])
