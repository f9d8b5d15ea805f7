"""A store of objects that tests can make fail: moto's S3 on a port of this machine, behind a layer that answers first.

`objects` of a bucket can be looked at and set past that layer.
"""

import threading
import time
from collections import Counter

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from shibolet.records import objects, store

BUCKET = "speech"
URL = f"s3://{BUCKET}"
_ACCOUNT, _REGION = "123456789012", "us-east-1"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class ObjectStore:
    """The server; what it does wrong is set between requests."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._server.daemon_threads = True
        self._lock = threading.Lock()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}", "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": _REGION, "NO_PROXY": "127.0.0.1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        self.reset()

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def reset(self) -> None:
        """An empty bucket, and nothing that goes wrong; what this process knows of the store is forgotten."""
        self.refuse_every = 0  # answers 503 to every n-th request
        self.wait_s = 0.0  # before each answer
        self.denies = ()  # methods that are answered with 403
        self.requests: Counter[str] = Counter()  # that came in, by method
        self.refused = 0
        backend = s3_backends[_ACCOUNT]["aws"]
        backend.reset()
        backend.create_bucket(BUCKET, _REGION)
        objects._KNOWN.clear()
        store._filesystem.cache_clear()

    def put(self, name: str, content: bytes) -> str:
        """Put an object there; its URL."""
        s3_backends[_ACCOUNT]["aws"].put_object(BUCKET, name, content)
        return f"{URL}/{name}"

    def get(self, name: str) -> bytes:
        return s3_backends[_ACCOUNT]["aws"].get_object(BUCKET, name).value

    def names(self) -> list[str]:
        return sorted(s3_backends[_ACCOUNT]["aws"].buckets[BUCKET].keys)

    def _answer(self, environ: dict, start_response):
        with self._lock:
            self.requests[environ["REQUEST_METHOD"]] += 1
            is_refused = self.refuse_every and self.requests.total() % self.refuse_every == 0
            self.refused += bool(is_refused)
        time.sleep(self.wait_s)
        for is_so, status, body in (
            (is_refused, "503 Slow Down", _SLOW_DOWN),
            (environ["REQUEST_METHOD"] in self.denies, "403 Forbidden", _DENIED),
        ):
            if is_so:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
                start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
        return self._app(environ, start_response)
