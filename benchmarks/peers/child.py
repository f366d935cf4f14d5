"""The least a process needs to serve steps over a pipe: what the peers without a protocol of their own are measured with.

It protects nothing. Standard library only; run as ``python -I child.py``, or forked with :func:`serve` called on two descriptors.
"""

import ast
import json
import os
import struct

HEAD = struct.Struct(">II")


def send(descriptor, header, blob=b""):
    """One frame: two lengths, JSON, bytes."""
    text = json.dumps(header).encode()
    if blob:
        data = memoryview(HEAD.pack(len(text), len(blob)) + text + blob)
    else:
        data = memoryview(HEAD.pack(len(text), 0) + text)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor):
    """The next frame, or None at the end."""
    head = _exactly(descriptor, HEAD.size)
    if head is None:
        return None
    text, blob = HEAD.unpack(head)
    return json.loads(_exactly(descriptor, text)), _exactly(descriptor, blob) if blob else b""


def _exactly(descriptor, size):
    first = os.read(descriptor, size)
    if len(first) == size:
        return first
    if not first:
        return None
    data = bytearray(first)
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def serve(inward, outward):
    """Answer requests until the other end goes away."""

    def tool(value):
        send(outward, {"call": value})
        return receive(inward)[0]["value"]

    namespace = {"tool": tool}
    while (frame := receive(inward)) is not None:
        header, blob = frame
        if "put" in header:
            namespace[header["put"]] = blob
            send(outward, {"value": None})
            continue
        try:
            tree = ast.parse(header["code"])
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "<step>", "exec"), namespace)
            value = None if last is None else eval(compile(ast.Expression(last.value), "<step>", "eval"), namespace)
        except BaseException as error:
            send(outward, {"error": repr(error)[:500]})
            continue
        if isinstance(value, bytes):
            send(outward, {"value": None}, value)
        else:
            send(outward, {"value": value})


if __name__ == "__main__":
    # Anything that prints must not end up between two frames.
    replies = os.dup(1)
    os.dup2(2, 1)
    serve(0, replies)
