"""Sends requests to a node and checks each answer against the types of OpenAI's client and the Open Responses document.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY. Which answers are expected is for the caller to check.
"""

import json
import os
import urllib.error
import urllib.request

import openresponses_types as openresponses
import pydantic
from checks import check
from openai.types import responses
from openai.types.shared import ErrorObject
from strict import order_errors, type_errors


class ErrorBody(pydantic.BaseModel):
    """The body of an error."""

    error: ErrorObject


def send(method, path, body=None):
    """Sends a request. Returns the status, and the body as JSON or as events."""
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + path, method=method)
    request.add_header("authorization", f"Bearer {os.environ['OPENAI_API_KEY']}")
    if body is not None:
        request.add_header("content-type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read().decode()
            return answer.status, events(text) if answer.headers["content-type"].startswith("text/event-stream") else json.loads(text)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def events(text):
    parsed = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if lines:
            parsed.append(json.loads(lines["data"]))
            check("name of an event", lines.get("event"), parsed[-1]["type"])
    return parsed


def ask(case, kind, method, path, body=None):
    """Sends a request and checks that the answer has status 200 and no type errors as a `kind`."""
    status, answer = send(method, path, body)
    # The body of an unexpected answer says why, so the title has it.
    check(f"{case}: status" if status == 200 else f"{case}: status of {answer}", status, 200)
    check(f"{case}: type errors", type_errors(answer, kind), [])
    return answer


def open_responses(case, answer):
    """Checks a response against the Open Responses document, which has more required fields and fewer items."""
    format_ = (answer.get("text") or {}).get("format") or {}
    if "schema" in format_:
        # The document declares that a schema is null.
        answer = answer | {"text": answer["text"] | {"format": format_ | {"schema": None}}}
    # The document lacks items and tools of MCP.
    own = {"output": [item for item in answer["output"] if not item["type"].startswith("mcp_")], "tools": [tool for tool in answer["tools"] if tool["type"] != "mcp"]}
    answer = answer | own
    try:
        openresponses.ResponseResource.model_validate_json(json.dumps(answer))
        wrong = []
    except pydantic.ValidationError as error:
        wrong = [(line["loc"], line["msg"]) for line in error.errors()]
    check(f"{case}: errors by the Open Responses document", wrong, [])


def response(case, method, path, body=None, status="completed"):
    answer = ask(case, responses.Response, method, path, body)
    open_responses(case, answer)
    # A queued response may have begun by now.
    actual = "queued" if status == "queued" and answer["status"] == "in_progress" else answer["status"]
    check(f"{case}: status", actual, status)
    check(f"{case}: completed_at is set", answer["completed_at"] is not None, status == "completed")
    return answer


def create(case, status="completed", **fields):
    return response(case, "POST", "/responses", {"model": "plain", "input": "How are you?", **fields}, status)


def follow(case, method, path, body=None, after=-1, kinds=()):
    """Sends a request for a stream and checks its events: types, order, and that all `kinds` occur."""
    status, received = send(method, path, body)
    check(f"{case}: status", status, 200)
    check(
        f"{case}: type errors of the events",
        [line for event in received for line in type_errors(event, responses.ResponseStreamEvent, event["type"])],
        [],
    )
    check(f"{case}: order errors of the events", order_errors(received, after), [])
    check(
        f"{case}: missing types of events",
        [kind for kind in kinds if kind not in [event["type"] for event in received]],
        [],
    )
    for event in received:
        if "response" in event:
            open_responses(f"{case}, {event['type']}", event["response"])
    return received


def stream(case, kinds=(), **fields):
    return follow(case, "POST", "/responses", {"model": "plain", "input": "How are you?", "stream": True, **fields}, kinds=kinds)


def walk_list(case, kind, path, n):
    """Reads a list in both orders, two items a page. Returns the ids."""
    orders = []
    for order in ("asc", "desc"):
        ids, more, after = [], True, ""
        while more:
            page = ask(f"{case}, {order}", kind, "GET", f"{path}?limit=2&order={order}{after}")
            ids += [item["id"] for item in page["data"]]
            more, after = page["has_more"], f"&after={page['last_id']}"
            check(f"{case}: first_id and last_id of a page", [page["first_id"], page["last_id"]], [page["data"][0]["id"], page["data"][-1]["id"]])
        orders.append(ids)
    check(f"{case}: number of items, and the same in both orders", (len(orders[0]), orders[0]), (n, orders[1][::-1]))
    return orders[0]


def check_error(case, status, kind, code, param, method, path, body=None):
    received, answer = send(method, path, body)
    check(f"{case}: names of the error's fields", sorted(answer["error"]), ["code", "message", "param", "type"])
    check(f"{case}: type errors of the error", type_errors(answer, ErrorBody), [])
    error = answer["error"]
    check(
        f"{case}: status, type, code and param",
        (received, error["type"], error["code"], error["param"]),
        (status, kind, code, param),
    )
