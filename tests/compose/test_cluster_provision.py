"""Nothing is declared before all nodes are one cluster, and nothing starts before all of it is replicated."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from compose.containers import provision as provisioning
from compose.containers.provision import (
    Management,
    keep_metadata_by_consensus,
    wait_for_cluster,
    wait_for_replicas,
)
from compose.local.commands import RigError

NODES = ("rabbit@one", "rabbit@two", "rabbit@three")


class Answering(HTTPServer):
    """A broker's management that says one thing after the other, the last one for ever."""

    def __init__(self, *answers: object) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.answers = list(answers)
        self.asked: list[str] = []

    @property
    def management(self) -> Management:
        return Management(f"http://127.0.0.1:{self.server_port}", "secret")


class Answers(BaseHTTPRequestHandler):
    server: Answering

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answers = self.server.answers
        body = json.dumps(answers.pop(0) if len(answers) > 1 else answers[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextmanager
def saying(*answers: object) -> Iterator[Answering]:
    server = Answering(*answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "PAUSE_SECONDS", 0)


def nodes(*running: str) -> list[dict[str, object]]:
    return [{"name": name, "running": name in running} for name in NODES]


def queues(**online: tuple[str, ...]) -> list[dict[str, object]]:
    replicated: list[dict[str, object]] = [
        {"name": name, "type": name, "members": list(NODES), "online": list(where)}
        for name, where in online.items()
    ]
    return [*replicated, {"name": "somebody's own", "type": "classic"}]


def test_it_waits_until_the_last_node_has_come() -> None:
    with saying(nodes()[:1], nodes(*NODES[:2]), nodes(*NODES)) as broker:
        wait_for_cluster(broker.management, NODES)
    assert broker.asked == ["/api/nodes"] * 3


def test_a_node_that_does_not_come_is_named() -> None:
    with saying(nodes(*NODES[:2])) as broker, pytest.raises(RigError, match=r"there is no rabbit@three$"):
        wait_for_cluster(broker.management, NODES, attempts=3)
    assert len(broker.asked) == 3


def test_it_waits_until_every_queue_has_grown_onto_every_node() -> None:
    with saying(queues(quorum=NODES[:1]), queues(quorum=NODES)) as broker:
        wait_for_replicas(broker.management, NODES)
    assert len(broker.asked) == 2


def test_what_is_not_replicated_is_named_and_so_is_what_helps() -> None:
    with (
        saying(queues(quorum=NODES, stream=NODES[:1])) as broker,
        pytest.raises(RigError, match=r"add_replica.*: stream is not on rabbit@three, rabbit@two$"),
    ):
        wait_for_replicas(broker.management, NODES, attempts=2)


def flags(state: str) -> list[dict[str, object]]:
    return [{"name": "stream_queue", "state": "enabled"}, {"name": "khepri_db", "state": state}]


def test_a_cluster_of_an_older_version_is_set_to_decide_by_majority() -> None:
    with saying(flags("disabled"), flags("enabled")) as broker:
        keep_metadata_by_consensus(broker.management)
    enabling = "PUT /api/feature-flags/khepri_db/enable"
    assert broker.asked == ["/api/feature-flags", enabling, "/api/feature-flags"]


def test_one_that_does_so_already_is_left_alone() -> None:
    with saying(flags("enabled")) as broker:
        keep_metadata_by_consensus(broker.management)
    assert broker.asked == ["/api/feature-flags"]


def test_one_that_cannot_is_named() -> None:
    with saying(flags("unavailable")) as broker, pytest.raises(RigError, match="Khepri: it is unavailable"):
        keep_metadata_by_consensus(broker.management, attempts=2)
