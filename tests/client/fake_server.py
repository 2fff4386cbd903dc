"""A server in a thread that gives prepared answers and keeps what it was asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self


class Given(NamedTuple):
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}
    hang: bool = False


class Asked(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: int


class FakeServer:
    """Each request takes the next prepared answer; the last one stays."""

    def __init__(self, *answers: Given) -> None:
        self.answers = deque(answers)
        self.asked: list[Asked] = []
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append(Asked(self.path, headers, body, self.client_address[1]))
                given = server.answers.popleft() if len(server.answers) > 1 else server.answers[0]
                if given.hang:
                    server.over.wait(10)
                    self.close_connection = True
                    return
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(given.body)))
                self.end_headers()
                self.wfile.write(given.body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
