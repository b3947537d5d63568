"""A server on 127.0.0.1 that speaks enough of OpenAI's chat completions; what it answers is up to the test."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from evolpo.rewards.judges import judge as judges


@dataclass
class Answer:
    """What the server sends; a body that is a string becomes the text of a completion, bytes are sent as they are."""

    body: str | bytes | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    """Seconds between the bytes of the body."""

    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        message = {"role": "assistant", "content": self.body}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        fields = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return json.dumps({**fields, "usage": usage}).encode()


class JudgeServer:
    """Requests as they came, and how many were under way at the same time."""

    def __init__(self, answer: Callable[[dict, int], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict] = []
        self.headers: list[Message] = []
        self.paths: list[str] = []
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        self.base_url = ""

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            index = len(self.requests)
            self.requests.append(request)
            self.headers.append(handler.headers)
            self.paths.append(handler.path)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        answer = self.answer(request, index)
        time.sleep(answer.delay_s)
        with self.lock:
            self.running -= 1
        content = answer.content()
        with contextlib.suppress(OSError):  # A client that gave up has closed the connection.
            handler.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            if not answer.drip_s:
                handler.wfile.write(content)
                return
            for byte in content:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(answer.drip_s)


@contextlib.contextmanager
def judge_server(answer: Callable[[dict, int], Answer]) -> Iterator[JudgeServer]:
    """A running server; `answer` gets the request and how many came before."""
    server = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.serve(self)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.base_url = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


def ask_behind(judge, request: dict) -> str:
    """What a judge of ours says to the messages of a request: a model behind the server."""
    messages = [judges.Message(one["role"], one["content"]) for one in request["messages"]]
    return asyncio.run(judge.ask(messages)).text
