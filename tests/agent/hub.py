"""A hub on loopback: as much of the Hugging Face Hub's interface as the real client needs to upload and download a Space."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.agent.loopback import Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Server):
    """Files of one Space by name; `log` has what was asked."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files: dict[str, bytes] = dict(files or {})
        self.created: list[Any] = []
        super().__init__([self.answer])

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        _, path, _, body = self.requests[-1]
        path = unquote(urlsplit(path).path)
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            name = self.created[-1]["name"]
            return self.send(handler, {"url": f"{self.url}/spaces/me/{name}", "name": f"me/{name}"})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return self.send(
                handler, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.send(
                handler,
                {
                    "commitUrl": f"{self.url}/spaces/me/AlfredAgent/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "pullRequestUrl": None,
                    "success": True,
                },
            )
        if "/tree/" in path:
            return self.send(
                handler,
                [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in self.files.items()
                ],
            )
        if path.startswith("/api/"):
            names = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            about = {
                "id": "me/AlfredAgent",
                "sha": COMMIT,
                "siblings": names,
                "private": False,
                "tags": [],
                "sdk": "gradio",
                "_id": "1",
            }
            return self.send(handler, about)
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in self.files:
            return self.send(handler, {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        data = self.files[name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self.send(handler, data, 200, headers)

    def send(
        self, handler: BaseHTTPRequestHandler, data: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        handler.send_response(status)
        handler.send_header(
            "content-type", "application/octet-stream" if isinstance(data, bytes) else "application/json"
        )
        handler.send_header("content-length", str(len(raw)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(raw)
