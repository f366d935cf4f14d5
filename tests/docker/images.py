"""Images that tests make without a registry, and how those with packages are made here."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from safeexec_backends.docker import setup

SHELL = "safeexec-test-shell:1"


def with_shell(client: Any) -> str:
    """The local image with bash and what start scripts take for granted in it, as ``python:<version>-slim`` has."""
    file = io.BytesIO()
    done: set[str] = set()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("bash", "dirname"):
            program = Path(shutil.which(name) or "")
            setup._file(tar, done, program, f"usr/bin/{name}")
            for library in sorted(setup._needed(program)):
                setup._file(tar, done, Path(library), library.lstrip("/"))
        for name in ("bash", "sh"):
            setup._link(tar, f"bin/{name}", "/usr/bin/bash")
    made = client.api.create_container(setup.local_image(), command=["python3"])["Id"]
    try:
        client.api.put_archive(made, "/", file.getvalue())
        repository, _, tag = SHELL.partition(":")
        client.api.commit(made, repository=repository, tag=tag)
    finally:
        client.api.remove_container(made, force=True)
    return SHELL


BUILD: dict[str, Any] = {
    "build_network": "host",
    "build_env": {
        k: v
        for k, v in os.environ.items()
        if k in ("PIP_INDEX_URL", "PIP_CERT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    },
}
