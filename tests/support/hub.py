"""A stand-in of the hub's HTTP interface on this machine, for uploads: what `huggingface_hub` asks of it, and no more."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """A server that keeps what was committed; `fails` is path -> status with which it answers there."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.created: list[dict] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.fails: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """What the server answers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_words):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.asked.append(self.path)
        hub.tokens.add(self.headers.get("Authorization"))
        status = next((status for path, status in hub.fails.items() if path in self.path), None)
        if status:
            return self._send({"error": "no"}, status)
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            return self._send({"url": f"{hub.url}/me/demo"})
        if self.path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            large = (".safetensors", ".onnx")
            return self._send({"files": [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(large) else "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]})  # fmt: skip
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.url}/store/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._send({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            made = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    made[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    made[value["path"]] = hub.stored[value["oid"]]
            hub.files |= made
            return self._send({"commitUrl": f"{hub.url}/me/demo/commit/1", "commitOid": "1" * 40})
        return self._send({"error": f"unknown: {self.path}"}, 404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = next((status for path, status in self.server.fails.items() if path in self.path), None)
        if status:
            return self._send({"error": "no"}, status)
        assert self.path == f"/store/{hashlib.sha256(body).hexdigest()}"
        self.server.stored[self.path.rpartition("/")[2]] = body
        return self._send({})

    def _send(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def local_hub():
    """Yield a hub that answers until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
