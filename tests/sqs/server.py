"""SQS over HTTP in this process: moto's server, which can be stopped, started again, and told to refuse a call."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import boto3.session
from botocore.config import Config
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

Body = dict[str, Any]
#: Status and body of an answer that stands in for SQS's own.
Answer = tuple[int, Body]
#: Looks at a call (its action and body) and may answer it; None leaves it to the server.
Fault = Callable[[str, Body], Answer | None]


def refusal(code: str, message: str = "no", status: int = 400) -> Answer:
    """SQS refuses the whole call."""
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": message}


def _server() -> tuple[Any, type[WSGIRequestHandler]]:
    """The application, and what handles a request and says nothing of it; half a second for who needs them."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

    class Quiet(MotoRequestHandler):
        def log_request(self, *_: object) -> None:
            pass

    return DomainDispatcherApplication(create_backend_app), Quiet


class SqsServer:
    """One server on a port of its own; what is in its queues outlives a stop."""

    def __init__(self) -> None:
        self._app, self._handler = _server()
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, Body]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def listens(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=self._handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From now on nobody listens on the port."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def client(self, **options: Any) -> Any:
        """A client of this server."""
        config = Config(connect_timeout=2, read_timeout=25, retries={"total_max_attempts": 1, "mode": "standard"})
        return boto3.session.Session().client(
            "sqs",
            region_name="eu-central-1",
            endpoint_url=self.endpoint,
            aws_access_key_id="AKIAEXAMPLEEXAMPLE00",
            aws_secret_access_key="very-secret-key",
            config=config.merge(Config(**options)),
        )

    def made(self, action: str) -> list[Body]:
        """The bodies of the calls of one kind, in order."""
        return [body for name, body in list(self.calls) if name == action]

    def _answer(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = json.loads(text or b"{}")
        self.calls.append((action, body))
        for fault in list(self.faults):
            if (answer := fault(action, body)) is not None:
                return _sent(answer, start_response)
        if body.get("WaitTimeSeconds") == 1:
            # A consumer's poll, which its stop has to wait for: an empty answer comes sooner.
            text = json.dumps(body | {"WaitTimeSeconds": 0.1}).encode()
            environ = {**environ, "CONTENT_LENGTH": str(len(text))}
        answered: Iterable[bytes] = self._app({**environ, "wsgi.input": BytesIO(text)}, start_response)
        return answered


def _sent(answer: Answer, start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, body = answer
    content = json.dumps(body).encode()
    headers: Sequence[tuple[str, str]] = [
        ("Content-Type", "application/x-amz-json-1.0"),
        ("Content-Length", str(len(content))),
    ]
    start_response(f"{status} Answer", headers)
    return [content]
