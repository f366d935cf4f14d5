"""Snapshots, and states of sessions that wait, as a stranger could have written them."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from safeexec import Snapshot, snapshot


def parts(image: Snapshot) -> tuple[dict[str, Any], bytes, bytes]:
    """Header; places and pages, one behind the other; contents."""
    state = snapshot.unpack(bytes(image), None).state
    length = int.from_bytes(state[:4], "little")
    header = json.loads(state[4 : 4 + length])
    rest = state[4 + length :]
    end = header["places"][1] + header["pages"]
    return header, rest[:end], rest[end:]


def forged(image: Snapshot, header: Any, written: bytes, contents: bytes) -> Snapshot:
    """A snapshot with another state in it, and every digest as it should be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    state = len(text).to_bytes(4, "little") + text + written + contents
    return snapshot.pack(snapshot.unpack(bytes(image), None)._replace(state=state), None)


def placed(image: Snapshot, starts: list[int], lengths: list[int], data: bytes | None = None) -> Snapshot:
    """A snapshot whose memory differs elsewhere, by `data` if not by as many bytes as it says."""
    header, _, contents = parts(image)
    places = zlib.compress(struct.pack(f"<{len(starts) + len(lengths)}I", *starts, *lengths))
    pages = zlib.compress(bytes(sum(lengths) % 2**22) if data is None else data)
    header = change(header, places=[len(starts), len(places)], pages=len(pages))
    return forged(image, header, places + pages, contents)


def change(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, **fields}


def files(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, "files": {**header["files"], **fields}}


def nodes(header: dict[str, Any], *more: Any) -> dict[str, Any]:
    return files(header, nodes=[*header["files"]["nodes"], *more])


def alone(header: dict[str, Any]) -> dict[str, Any]:
    """Without the shared files, which only a root may have."""
    described = [list(node) for node in header["files"]["nodes"]]
    root = described[header["files"]["root"]]
    root[3] = {name: number for name, number in root[3].items() if type(number) is int}
    return files(header, nodes=described)


def linked(header: dict[str, Any], name: str, what: Any) -> dict[str, Any]:
    """With one more entry in the working directory."""
    described = [list(node) for node in header["files"]["nodes"]]
    described[header["files"]["working"]][3] = {**described[header["files"]["working"]][3], name: what}
    return files(header, nodes=described)


TIMES = [0, 0, 0]
HARMLESS = (["d", 0, TIMES, {}, 5], ["f", 0, TIMES, 0, 5], ["l", 0, TIMES, "x", 5], ["c", 0, TIMES, "null", 5])
"""Nodes that nothing leads to, as a guest leaves them behind."""
ATTACKS: dict[str, tuple[str, Any]] = {
    "places of a wrong shape": ("its pages", lambda h: change(h, places=[1])),
    "places that are numbers": ("its pages", lambda h: change(h, places=7)),
    "no places": ("its pages", lambda h: change(h, places=None)),
    "too few places": ("it is too long", lambda h: change(h, places=[h["places"][0] - 1, h["places"][1]])),
    "too many places": ("it is too short", lambda h: change(h, places=[h["places"][0] + 1, h["places"][1]])),
    "places without end": ("its pages", lambda h: change(h, places=[2**40, h["places"][1]])),
    "less than no places": ("its pages", lambda h: change(h, places=[-1, h["places"][1]])),
    "places beyond the end": ("the length of its pages", lambda h: change(h, places=[h["places"][0], 2**40])),
    "places that end before they begin": ("the length of its pages", lambda h: change(h, places=[h["places"][0], -5])),
    "floating places": ("its pages", lambda h: change(h, places=[float(h["places"][0]), h["places"][1]])),
    "true places": ("its pages", lambda h: change(h, places=[True, h["places"][1]])),
    "a memory that is too small": ("the size of its memory", lambda h: change(h, memory=65536)),
    "a memory beyond the limit": ("the size of its memory", lambda h: change(h, memory=2**32)),
    "a memory beyond addresses": ("the size of its memory", lambda h: change(h, memory=2**40)),
    "a memory of odd size": ("the size of its memory", lambda h: change(h, memory=h["memory"] + 1)),
    "a negative memory": ("the size of its memory", lambda h: change(h, memory=-65536)),
    "no clock": ("its clock", lambda h: change(h, clock=None)),
    "a clock of another kind": ("its clock", lambda h: change(h, clock="now")),
    "a clock before time": ("its clock", lambda h: change(h, clock=-1)),
    "streams beyond the end": ("the length of its pages", lambda h: change(h, pages=10**9)),
    "a negative stream": ("the length of its pages", lambda h: change(h, pages=-1)),
    "contents beyond Limits.disk": ("its files take more than Limits.disk", lambda h: change(h, contents=2**40)),
    "contents that are not there": ("it is too short", lambda h: change(h, contents=h["contents"] + 1)),
    "contents of no file": ("it is too long", lambda h: change(h, contents=h["contents"] - 1)),
    "no files": ("its files", lambda h: change(h, files=None)),
    "files of another kind": ("its files", lambda h: change(h, files=[1])),
    "no nodes": ("its files: too many nodes", lambda h: files(h, nodes=None)),
    "more nodes than there may be": ("its files: too many nodes", lambda h: nodes(h, *[["d", 0, TIMES, {}, 5]] * 20_000)),
    "a file of negative size": ("its files: a number out of range", lambda h: nodes(h, ["f", 0, TIMES, -1, 5])),
    "a file of endless size": ("its files: a number out of range", lambda h: nodes(h, ["f", 0, TIMES, 2**62, 5])),
    "a node of no kind": ("its files: a node of unknown kind", lambda h: nodes(h, ["b", 0, TIMES, 1, 5])),
    "a node that is none": ("its files", lambda h: nodes(h, 7)),
    "an unknown device": ("its files: an unknown device", lambda h: nodes(h, ["c", 0, TIMES, "mem", 5])),
    "a device that is a list": ("its files: an unknown device", lambda h: nodes(h, ["c", 0, TIMES, ["null"], 5])),
    "a mode with more in it": ("its files: a number out of range", lambda h: nodes(h, ["d", 0o170000, TIMES, {}, 5])),
    "an inode beyond numbers": ("its files: a number out of range", lambda h: nodes(h, ["d", 0, TIMES, {}, 2**64])),
    "a time before time": ("its files: a number out of range", lambda h: nodes(h, ["d", 0, [0, -(2**63) * 10**9 - 1, 0], {}, 5])),
    "a time beyond time": ("its files: a number out of range", lambda h: nodes(h, ["d", 0, [0, 0, 2**63 * 10**9], {}, 5])),
    "a link to nothing": ("its files: an empty link", lambda h: nodes(h, ["l", 0, TIMES, "", 5])),
    "a link that is too long": ("its files: a malformed text", lambda h: nodes(h, ["l", 0, TIMES, "x" * 5000, 5])),
    "a name with a slash": ("its files: a malformed name", lambda h: linked(h, "../up", 0)),
    "a name that goes up": ("its files: a malformed name", lambda h: linked(h, "..", h["files"]["root"])),
    "a name that stays": ("its files: a malformed name", lambda h: linked(h, ".", h["files"]["root"])),
    "no name": ("its files: a malformed name", lambda h: linked(h, "", h["files"]["root"])),
    "a name with a NUL": ("its files: a malformed text", lambda h: linked(h, "a\0b", h["files"]["root"])),
    "a name that is too long": ("its files: a malformed text", lambda h: linked(h, "x" * 256, h["files"]["root"])),
    "a name of surrogates": ("its files: a text that no path can be", lambda h: linked(h, "\ud800", h["files"]["root"])),
    "a directory in itself": ("its files: something with two names", lambda h: linked(h, "loop", h["files"]["working"])),
    "the root below itself": ("its files: a root with a name", lambda h: linked(h, "loop", h["files"]["root"])),
    "a node that does not exist": ("its files: a number out of range", lambda h: linked(h, "ghost", 10**6)),
    "a node counted from the end": ("its files: a number out of range", lambda h: linked(h, "ghost", -1)),
    "a shared file that is not there": ("its files: a shared file that is not here", lambda h: linked(h, "ghost", "lib/../../etc/passwd")),
    "the host's files": ("its files: a shared file that is not here", lambda h: linked(h, "ghost", "/etc/passwd")),
    "a shared file by an empty name": ("its files: a shared file that is not here", lambda h: linked(h, "ghost", "")),
    "a root that is a file": ("its files: a directory that is none", lambda h: files(alone(h), root=next(n for n, d in enumerate(h["files"]["nodes"]) if d[0] == "f"))),
    "a root that is shared": ("its files: a working directory in another place", lambda h: files(alone(h), root="lib")),
    "a working directory that is shared": ("its files: a working directory that cannot be written", lambda h: files(h, working="lib")),
    "a working directory of nothing": ("its files: a number out of range", lambda h: files(h, working=None)),
    "a place that is no list": ("its files: a malformed place", lambda h: files(h, cwd="sandbox")),
    "a place that is nowhere": ("its files: a malformed place", lambda h: files(h, cwd=[])),
    "a place that begins elsewhere": ("its files: a place that does not begin at the root", lambda h: files(h, cwd=[["", h["files"]["working"]]])),
    "a place of endless length": ("its files: a malformed place", lambda h: files(h, cwd=[["", h["files"]["root"]]] * 10**5)),
    "a mask beyond its bits": ("its files: a number out of range", lambda h: files(h, umask=0o7777)),
    "too many descriptors": ("its files: too many open files", lambda h: files(h, descriptors=[[n, 0] for n in range(1000)])),
    "a descriptor twice": ("its files: two files with one descriptor", lambda h: files(h, descriptors=[*h["files"]["descriptors"], h["files"]["descriptors"][0]])),
    "a negative descriptor": ("its files: a number out of range", lambda h: files(h, descriptors=[[-1, 0], *h["files"]["descriptors"][1:]])),
    "a descriptor of nothing": ("its files: a number out of range", lambda h: files(h, descriptors=[[9, 99], *h["files"]["descriptors"]])),
    "times that are one": ("its files", lambda h: nodes(h, ["d", 0, 0, {}, 5])),
    "two times": ("its files", lambda h: nodes(h, ["d", 0, [0, 0], {}, 5])),
    "an open file that no descriptor has": ("its files: open files without a descriptor", lambda h: files(h, descriptors=[[number, 0] for number, _ in h["files"]["descriptors"]])),
    "open files without descriptors": ("its files: open files without a descriptor", lambda h: files(h, open=h["files"]["open"] * 2)),
    "a place in a file before its start": ("its files: a number out of range", lambda h: files(h, open=[[*f[:3], -5, f[4]] for f in h["files"]["open"]])),
    "a place in a file beyond numbers": ("its files: a number out of range", lambda h: files(h, open=[[*f[:3], 2**63, f[4]] for f in h["files"]["open"]])),
    "flags beyond their bits": ("its files: a number out of range", lambda h: files(h, open=[[f[0], 2**40, *f[2:]] for f in h["files"]["open"]])),
    "a shared file open for writing": ("its files: a shared file that is open for writing", lambda h: files(h, open=[["lib/python314.zip", 1, *f[2:]] for f in h["files"]["open"]])),
    "a cursor of another kind": ("its files: a malformed text", lambda h: files(h, open=[[*f[:4], 5] for f in h["files"]["open"]])),
    "a header beyond all files": ("its header", lambda h: nodes(h, *[["d", 0, TIMES, {}, 5]] * 100_000)),
}  # fmt: skip
"""What is refused, why, and how it is made of an honest header."""
