"""A process that looks like a service to the rig: `python -m tests.runtime.http_standin`.

It is ready once its database and broker addresses answer; STANDIN makes it misbehave: `dies`, `unready`,
`stubborn` (ignores SIGTERM).
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

BEHAVIOUR = os.environ.get("STANDIN", "")


class Answers(BaseHTTPRequestHandler):
    """Answers /readyz; anything else is its environment, so that a test can look at it."""

    def do_GET(self) -> None:
        """The name is what http.server asks for."""
        if self.path == "/readyz":
            problem = why_not_ready()
            self._answer(503 if problem else 200, {"detail": problem})
        else:
            variables = {name: value for name, value in os.environ.items() if name.startswith("MURMURATION_")}
            self._answer(200, variables)

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def why_not_ready() -> str | None:
    """The same questions a service asks itself."""
    if BEHAVIOUR == "unready":
        return "told to stay unready"
    if url := os.environ.get("MURMURATION_DATABASE_URL"):
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return str(error)
    return None


def main() -> None:
    if BEHAVIOUR == "dies":
        print("the stand-in was told to die", file=sys.stderr)
        sys.exit(3)
    if BEHAVIOUR == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = (os.environ["MURMURATION_HTTP_HOST"], int(os.environ["MURMURATION_HTTP_PORT"]))
    ThreadingHTTPServer(address, Answers).serve_forever()


if __name__ == "__main__":
    main()
