"""``shutil.make_archive`` and ``unpack_archive``, by way of the facades of zipfile and tarfile: they open what a program may open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

_TAR = {"tar": ("", ".tar"), "gztar": ("gz", ".tar.gz"), "bztar": ("bz2", ".tar.bz2"), "xztar": ("xz", ".tar.xz")}


def pack(language: RestrictedLanguage, base: str, kind: str, root: Any, below: Any) -> str:
    """The name of the archive made. Raises ValueError for an unknown format."""
    if kind != "zip" and kind not in _TAR:
        raise ValueError(f"unknown archive format {kind!r}")
    find, top = language.gate.build, os.path
    paths = find("os").path
    start = os.curdir if root is None else str(root)
    first = paths.normpath(paths.join(start, os.curdir if below is None else str(below)))
    entries = [first]
    for folder, folders, files in find("os").walk(first):
        entries += [top.join(folder, name) for name in sorted([*folders, *files])]
    target = base + (".zip" if kind == "zip" else _TAR[kind][1])
    named = [(path, top.relpath(path, start)) for path in entries]
    if kind == "zip":
        module = find("zipfile")
        with module.ZipFile(target, "w", module.ZIP_DEFLATED) as archive:
            for path, name in named:
                if name != os.curdir:
                    archive.write(path, name)
    else:
        with find("tarfile").open(target, "w:" + _TAR[kind][0]) as archive:
            for path, name in named:
                archive.add(path, "./" + name if name != os.curdir else ".", recursive=False)
    return str(paths.abspath(target)) if root is not None else target


def unpack(language: RestrictedLanguage, name: str, folder: Any, kind: Any) -> None:
    """Take an archive apart below `folder`. Raises ValueError for an unknown format."""
    target = os.curdir if folder is None else str(folder)
    find = language.gate.build
    if kind == "zip" or (kind is None and name.endswith(".zip")):
        with find("zipfile").ZipFile(name) as archive:
            archive.extractall(target)
    elif kind in _TAR or (
        (kind is None and any(name.endswith(end) for _, end in _TAR.values())) or name.endswith(".tgz")
    ):
        with find("tarfile").open(name) as archive:
            archive.extractall(target)
    else:
        raise ValueError(f"Unknown archive format {name!r}")
