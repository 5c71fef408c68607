"""`/livez`, `/readyz` and `/metrics` over HTTP, for supervisors and Prometheus; they only read."""

import errno
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hopstream.errors import SettingsError
from hopstream.settings import HttpSettings

_log = structlog.get_logger(__name__)

_PATIENCE_S = 5.0
_STOP_S = 0.1  # how long closing may take
_AT_ONCE = 16  # connections; a supervisor and a Prometheus need two


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is.

    waiting_for: what it needs before it can do its work; nothing when it does.
    without: what it does its work without, as well as it can.
    stuck: loops that have stopped to turn.
    generation: the one that is served, None before there is one.
    """

    waiting_for: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    generation: str | None = None

    @property
    def ready(self) -> bool:
        """Whether the work is done now."""
        return not self.waiting_for

    @property
    def alive(self) -> bool:
        """Whether it makes progress, or would if there was something to do."""
        return not self.stuck


class HealthEndpoint:
    """Answers on the address of the settings for as long as a `with` block lasts."""

    def __init__(self, settings: HttpSettings, health: Callable[[], Health]) -> None:
        """Take the address. Raises `SettingsError` when that cannot be."""
        try:
            self._server = _Server((settings.host, settings.port), health)
        except OSError as error:
            raise _refused(settings, error) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_STOP_S,), name="health", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers, without a path."""
        host, port = self._server.server_address[:2]
        return (
            f"http://[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        _log.info("health endpoint open", url=self.url)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, TCPServer):
    """Not `ThreadingHTTPServer`, which looks up its own name and takes any number of connections."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _AT_ONCE

    def __init__(self, address: tuple[str, int], health: Callable[[], Health]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.health = health
        self._free = threading.Semaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away who comes when all places are taken."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a connection: most likely the other side is gone."""
        _log.info("health request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_S
    server_version, sys_version = "hopstream", ""
    server: _Server

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest())
        elif path == "/livez":
            health = self.server.health()
            self._tell(health.alive, {"alive": health.alive, "stuck": health.stuck})
        elif path == "/readyz":
            health = self.server.health()
            self._tell(health.ready, {"ready": health.ready, **asdict(health)})
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there are /livez, /readyz and /metrics\n")

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self.do_GET()

    def _tell(self, good: bool, what: dict[str, Any]) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, "application/json", json.dumps(what).encode() + b"\n")

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: this is asked every few seconds."""


def _refused(settings: HttpSettings, error: OSError) -> SettingsError:
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        remedy = "choose another port, or 0 for any free one"
        return SettingsError("http.port", f"{settings.host}:{settings.port}: {error.strerror}; {remedy}", "")
    remedy = "name an address of this machine, 0.0.0.0 for all of them"
    return SettingsError("http.host", f"{settings.host}: {error.strerror}; {remedy}", "")
