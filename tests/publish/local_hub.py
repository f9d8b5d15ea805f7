"""A Hub on this machine: the endpoints that huggingface_hub calls, a record of them, and a plug to pull.

Large files arrive by LFS, or by Xet into a folder (`local://`), as hf_xet's own client stores them.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LocalHub:
    """Repositories in memory; `cut` names the request, counted from 0, from which on nobody answers.

    With `answer_lost` that request is still carried out and only its answer never comes.
    """

    def __init__(self, xet_store: Path) -> None:
        self.repos: dict[str, dict] = {}  # id -> {"private": bool, "files": {path: bytes, or sha256 of a large file}}
        self.large: dict[str, bytes] = {}  # LFS objects by sha256
        self.gated: set[str] = set()
        self.requests: list[str] = []  # "POST /api/repos/create", those that were answered
        self.headers: list[dict] = []
        self.cut: int | None = None
        self.answer_lost = False
        self.xet_store = xet_store
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with hub._lock:
                    dead = hub.cut is not None and len(hub.requests) >= hub.cut
                    last_words = dead and hub.answer_lost and len(hub.requests) == hub.cut
                    if not dead or last_words:
                        hub.requests.append(f"{self.command} {urlsplit(self.path).path}")
                        hub.headers.append(dict(self.headers))
                        status, answer, headers = hub.answer(self.command, self.path, body)
                if dead:
                    self.close_connection = True
                    self.connection.close()
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = handle_one

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        """Status, JSON and headers."""
        place = unquote(urlsplit(path).path)
        if place == "/api/repos/create":
            wanted = json.loads(body)
            id = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            known = id in self.repos
            self.repos.setdefault(id, {"private": wanted.get("private", wanted.get("visibility")), "files": {}})
            return (409 if known else 200), {"url": f"{self.url}/{id}", "id": id}, {}
        if place == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if match := re.fullmatch(r"/objects/(\w+)", place):
            self.large[match[1]] = body
            return 200, {}, {}
        if match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/.]+)\.git/info/lfs/objects/batch", place):
            return 200, {"transfer": "basic", "objects": [self._lfs(item) for item in json.loads(body)["objects"]]}, {}
        if match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/\w+/(.+)", place):
            if match[1] in self.gated:
                return 403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"}
            content = self.repos.get(match[1], {"files": {}})["files"].get(match[2])
            if content is None:
                return 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"}
            return (
                200,
                content,
                {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self._sha(match[1])},
            )
        match = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([\w-]+))?(/.*)?", place)
        if match is None or match[2] not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        id, what = match[2], match[3]
        files = self.repos[id]["files"]
        if what == "tree":
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in sorted(files)], {}
        if what == "preupload":
            return 200, {"files": [self._mode(files, item) for item in json.loads(body)["files"]]}, {}
        if what == "xet-write-token":
            self.xet_store.mkdir(exist_ok=True)
            cas = {"casUrl": f"local://{self.xet_store}", "exp": 2**33, "accessToken": "t"}
            names = {"X-Xet-Cas-Url": "casUrl", "X-Xet-Access-Token": "accessToken", "X-Xet-Token-Expiration": "exp"}
            return 200, cas, {header: str(cas[key]) for header, key in names.items()}
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = value["oid"]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"])
            return 200, {"commitUrl": f"{self.url}/{id}/commit/{'1' * 40}", "commitOid": "1" * 40}, {}
        return 200, {"id": id, "sha": self._sha(id), "siblings": [{"rfilename": name} for name in sorted(files)]}, {}

    def _sha(self, id: str) -> str:
        """The commit, which is another one when a file is another one."""
        return hashlib.sha1(repr(sorted(self.repos[id]["files"].items())).encode()).hexdigest()

    def _lfs(self, item: dict) -> dict:
        there = {"upload": {"href": f"{self.url}/objects/{item['oid']}", "header": {}}}
        return item if item["oid"] in self.large else {**item, "actions": there}

    @staticmethod
    def _mode(files: dict, item: dict) -> dict:
        name, found = item["path"], files.get(item["path"])
        oid = None
        if isinstance(found, bytes):
            oid = hashlib.sha1(b"blob %d\0" % len(found) + found).hexdigest()
        elif found is not None:
            oid = found
        large = name.endswith((".safetensors", ".parquet"))
        return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
