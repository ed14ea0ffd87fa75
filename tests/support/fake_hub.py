"""A Hugging Face Hub of one's own on 127.0.0.1, with every way to fail that `hub.py` must meet."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def commit_id(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


@dataclass
class FakeHub:
    """Which models there are and what goes wrong; `requests` is the log, as "GET /path"."""

    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)  # (repo, commit) -> files
    branches: dict[tuple[str, str], str] = field(default_factory=dict)  # (repo, branch) -> commit
    renamed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # repo -> status, X-Error-Code
    refused_files: dict[str, tuple[int, str]] = field(default_factory=dict)  # file -> the same
    moves_after: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # file -> repo, branch, commit
    large: set[str] = field(default_factory=set)  # files that are kept at another origin, as with LFS
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes sent before each coming cut
    status: int = 200
    plain_404: bool = False
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        commit = commit_id(f"{repo} {branch} {sorted(files.items())}")
        self.files[repo, commit] = files
        self.branches[repo, branch] = commit
        return commit

    def asked_for(self, name: str, method: str = "GET") -> int:
        return sum(line.startswith(method) and line.endswith(f"/{name}") for line in self.requests)


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        if hub.status != 200:
            return self.reply(hub.status, {})
        repo, found, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo in hub.renamed:
            return self.reply(307, {"Location": self.path.replace(repo, hub.renamed[repo], 1)})
        if repo in hub.refused or name in hub.refused_files:
            status, code = hub.refused.get(repo) or hub.refused_files[name]
            return self.reply(status, {"X-Error-Code": code} if code else {})
        if not found or repo not in {known for known, _ in hub.files}:
            return self.reply(404, {} if hub.plain_404 else {"X-Error-Code": "RepoNotFound"})
        commit = hub.branches.get((repo, revision), revision)
        if (repo, commit) not in hub.files:
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit}
        if name not in hub.files[repo, commit]:
            return self.reply(404, headers if hub.plain_404 else {**headers, "X-Error-Code": "EntryNotFound"})
        self.send_file(name, hub.files[repo, commit][name], headers)
        if self.command == "GET" and name in hub.moves_after:
            moving, branch, commit = hub.moves_after.pop(name)
            hub.branches[moving, branch] = commit
        return None

    def send_file(self, name: str, body: bytes, headers: dict[str, str]) -> None:
        hub, size = self.hub, len(body)
        headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        here = str(self.headers.get("Host"))
        if name in hub.large and here.startswith("127.0.0.1"):
            headers["X-Linked-Size"], headers["X-Linked-Etag"] = str(size), headers["ETag"]
            headers["Location"] = f"http://{here.replace('127.0.0.1', 'localhost')}{self.path}"
            return self.reply(302, headers)
        status, start = 200, 0
        if wanted := self.headers.get("Range"):
            status, start = 206, int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if self.command == "GET" and hub.cut.get(name):
            stop = start + hub.cut[name].pop(0)
            self.reply(status, {**headers, "Content-Length": str(size - start)}, body[start:stop])
            self.close_connection = True
            return None
        return self.reply(status, {**headers, "Content-Length": str(size - start)}, body[start:])


@contextmanager
def running() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
