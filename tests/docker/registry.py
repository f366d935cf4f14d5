"""A registry on the loopback interface that has one image, as its protocol's version 2 says (distribution.github.io/distribution/spec/api)."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCHEMA = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """`url` is its address, `asked` the paths of the manifests that were asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def serving(client: Any, image: str) -> Iterator[Registry]:
    """Serve what the daemon of `client` has as `image`, under whatever name is asked for."""
    with tempfile.TemporaryFile() as file:
        for piece in client.images.get(image).save():
            file.write(piece)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:

            def read(name: str) -> bytes:
                opened = tar.extractfile(name)
                assert opened is not None
                return opened.read()

            described = json.loads(read("manifest.json"))[0]
            config, layers = read(described["Config"]), [read(name) for name in described["Layers"]]
    blobs = {_digest(data): data for data in (config, *layers)}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": SCHEMA,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": _digest(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": len(data),
                    "digest": _digest(data),
                }
                for data in layers
            ],
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body, kind = b"{}", "application/json"
            if "/manifests/" in self.path:
                registry.asked.append(self.path)
                body, kind = manifest, SCHEMA
            elif "/blobs/" in self.path:
                body, kind = blobs[self.path.rpartition("/")[2]], "application/octet-stream"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = Registry(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
