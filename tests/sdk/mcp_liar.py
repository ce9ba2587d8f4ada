"""Serves MCP and answers calls wrongly, in another way at each path. Usage: mcp_liar.py PORT.

Everything before a call is correct, with revision 2025-11-25 and a session, so that only the call is wrong. /sampling
answers correctly, once the client has answered the server's own requests. GET /calls lists the paths of the calls, and
GET /authorizations the authorization headers.
"""

import contextlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

calls = []
answers = []
authorizations = set()


class WrongAnswers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/calls":
            self.respond(json.dumps(calls).encode())
        elif self.path == "/authorizations":
            self.respond(json.dumps(sorted(authorizations)).encode())
        else:
            self.respond(b"", status=405)

    def do_DELETE(self):
        self.respond(b"")

    def do_POST(self):
        authorizations.add(self.headers.get("authorization", ""))
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = message.get("id")
        match message.get("method"):
            case "initialize":
                result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "liar", "version": "1"}}
                self.send_result(number, result, session=self.path.strip("/"))
            case "tools/list":
                self.send_result(number, {"tools": [{"name": "charge", "inputSchema": {"type": "object"}}]})
            case "tools/call":
                calls.append(self.path)
                getattr(self, self.path.strip("/").replace("-", "_"))(number)
            case None:
                answers.append(message)
                self.respond(b"", status=202)
            case method if method.startswith("notifications/"):
                self.respond(b"", status=202)
            case _:
                self.respond(b"", status=400)

    def respond(self, body, status=200, kind="application/json", **headers):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header({"session": "mcp-session-id"}.get(name, name), value)
        self.end_headers()
        self.wfile.write(body)

    def send_result(self, number, result, **headers):
        self.respond(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode(), **headers)

    def begin_stream(self, kind="text/event-stream"):
        """Begins an answer whose end is the end of the connection."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_event(self, message):
        self.wfile.write(b"data: " + json.dumps(message).encode() + b"\n\n")
        self.wfile.flush()

    def stall(self, _number):
        self.begin_stream()
        time.sleep(60)

    def megabytes(self, number):
        self.send_result(number, {"content": [{"type": "text", "text": "x" * 8_000_000}]})

    def wrong_id(self, number):
        self.send_result(number + 1, {"content": [{"type": "text", "text": "of somebody else"}]})

    def not_json(self, _number):
        self.respond(b"<h1>It works!</h1>")

    def redirect(self, _number):
        self.respond(b"", status=307, location="/elsewhere?token=secret")

    def elsewhere(self, number):
        self.send_result(number, {"content": [{"type": "text", "text": "followed"}]})

    def half(self, number):
        body = json.dumps({"jsonrpc": "2.0", "id": number, "result": {"content": []}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def endless_sse(self, _number):
        self.begin_stream()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b": still here\n\n")
                time.sleep(0.01)

    def sampling(self, number):
        self.begin_stream()
        sample = {"messages": [], "maxTokens": 1}
        self.send_event({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": sample})
        self.send_event({"jsonrpc": "2.0", "id": 7, "method": "ping"})
        self.send_event(
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hi"}},
        )
        while len(answers) < 2:
            time.sleep(0.01)
        text = json.dumps(answers)
        self.send_event({"jsonrpc": "2.0", "id": number, "result": {"content": [{"type": "text", "text": text}]}})

    def log_message(self, *_arguments):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), WrongAnswers).serve_forever()
