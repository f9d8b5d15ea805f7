"""A server of a review in the process of a test, and who asks it."""

import http.client
import json
import threading
from contextlib import closing, contextmanager
from pathlib import Path

from shibolet.recipe import load_recipe
from shibolet.records.runfolder import RunFolder
from shibolet.report.review_page import review_page
from shibolet.rounds.reviewing.address import Address, address_of
from shibolet.rounds.reviewing.desk import Desk
from shibolet.rounds.reviewing.server import ReviewServer
from shibolet.rounds.reviewing.settling import open_journal

JSON = {"Content-Type": "application/json"}


class Client:
    """Asks a server of this process; it knows the address."""

    def __init__(self, address: Address, run: Path) -> None:
        self.address, self.run = address, run

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, token: str | None = None, **headers):
        token = self.address.token if token is None else token
        return self.raw(f"/{token}/{path}", method=method, body=body, **headers)

    def raw(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers):
        """Status, headers and body of the answer."""
        headers = {"Host": f"127.0.0.1:{self.address.port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=20)
        with closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in headers:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path: str):
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def take_in(self, content: bytes | list) -> dict[str, int]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        status, _, body = self.ask("import?name=file.json", method="POST", body=body, **JSON)
        assert status == 200, body
        return json.loads(body)

    def answer(self, row: dict, by: str, verdict: str | None, **fields):
        given = {"by": by, "id": row["id"], "text": row["text"], "verdict": verdict, **fields}
        status, _, body = self.ask("answer", method="POST", body=json.dumps(given).encode(), **JSON)
        return status, json.loads(body)


@contextmanager
def serving(run: Path):
    folder = RunFolder(run)
    with closing(open_journal(folder)) as journal:
        desk = Desk(folder, load_recipe(folder.recipe), journal)
        with ReviewServer(address_of(run), desk, review_page(folder)) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield Client(server.address, run)
            finally:
                server.shutdown()
                thread.join()
