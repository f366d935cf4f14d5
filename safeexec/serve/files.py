"""The files of one sandbox: envd's ``/files`` and its service ``filesystem.Filesystem``."""

from __future__ import annotations

from typing import Any

from safeexec.names import UnsafeName
from safeexec.serve import forms
from safeexec.serve.connect import RpcError
from safeexec.serve.http import Request, Response, json_response
from safeexec.serve.machine import Entry, Machine, Unsupported


def content(machine: Machine, request: Request) -> Response:
    """GET and POST ``/files?path=``."""
    path = request.query.get("path", "")
    try:
        if request.method == "GET":
            return Response(200, machine.read(path), {"Content-Type": "application/octet-stream"})
        written = []
        for name, data in _uploads(request, path):
            machine.write(name, data)
            written.append({"name": name.rpartition("/")[2], "type": "file", "path": name})
        return json_response(written)
    except FileNotFoundError:
        return json_response({"code": 404, "message": f"path '{path}' does not exist"}, 404)
    except (OSError, UnsafeName, Unsupported) as error:
        return json_response({"code": 400, "message": str(error)}, 400)


def _uploads(request: Request, path: str) -> list[tuple[str, bytes]]:
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return [(path, request.body)]
    # All of them are read before one is written.
    named = [(path or part.filename, part.data) for part in forms.parts(request.body, kind)]
    return [(name, data) for name, data in named if name]


def service(machine: Machine, method: str, request: Request) -> Response:
    """One call of the service. Raises RpcError."""
    data = request.json_object()
    path = str(data.get("path", ""))
    try:
        if method == "Stat":
            return json_response({"entry": _entry(machine.stat(path))})
        if method == "ListDir":
            return json_response({"entries": [_entry(e) for e in machine.entries(path)]})
        if method == "MakeDir":
            machine.make_folder(path)
            return json_response({"entry": _entry(machine.stat(path))})
        if method == "Remove":
            machine.remove(path)
            return json_response({})
        if method == "Move":
            source, target = str(data.get("source", "")), str(data.get("destination", ""))
            machine.move(source, target)
            return json_response({"entry": _entry(machine.stat(target))})
    except FileNotFoundError:
        raise RpcError("not_found", f"path '{path}' does not exist") from None
    except FileExistsError:
        raise RpcError("already_exists", f"path '{path}' exists") from None
    except (OSError, UnsafeName, Unsupported) as error:
        raise RpcError("invalid_argument", str(error)) from None
    raise RpcError("unimplemented", f"there is no method {method}")


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": "FILE_TYPE_DIRECTORY" if entry.folder else "FILE_TYPE_FILE",
        "path": entry.path,
        "size": str(entry.size),
        "mode": 0o755 if entry.folder else 0o644,
        "permissions": "drwxr-xr-x" if entry.folder else "-rw-r--r--",
        "owner": "user",
        "group": "user",
    }
