"""Checks a node's WebSockets with OpenAI's official Python client, unchanged, and with its types of events.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope).
The last line is `N passed, M failed`.
"""

import json

import openai
from checks import attempt, check, end, raises
from openai.types.responses import ResponsesServerEvent
from strict import order_errors, type_errors
from websockets.exceptions import InvalidStatus

TEXT = "All is well é🙂"
ENDS = {"response.completed", "response.incomplete", "response.failed", "error"}

client = openai.OpenAI(max_retries=0, timeout=120)


def events(connection, case):
    """Reads the events of one response and checks their types."""
    received = []
    while not received or received[-1].type not in ENDS:
        data = connection.recv_bytes()
        check(f"{case}: type errors of an event", type_errors(json.loads(data), ResponsesServerEvent), [])
        received.append(connection.parse_event(data))
    return received


def responses():
    with client.responses.connect() as connection:
        connection.response.create(model="plain", input="How are you?", stream_id="one")
        received = events(connection, "stored response")
        check("stored response: order errors of the events", order_errors([event.to_dict() for event in received]), [])
        check("stored response: lanes of the events", {event.stream_id for event in received}, {"one"})
        response = received[-1].response
        check("stored response: text and status", (response.output_text, response.status), (TEXT, "completed"))
        check("stored response: the same over HTTP", client.responses.retrieve(response.id), response)
        connection.response.create(model="plain", input="Again?", store=False, previous_response_id=response.id, stream_id="one")
        last = events(connection, "response that is not stored")[-1].response
        check(
            "response that is not stored: text and previous_response_id",
            (last.output_text, last.previous_response_id),
            (TEXT, response.id),
        )
        for model in ("openai-good", "anthropic-good", "deepseek-good"):
            connection.response.create(model=model, input="How are you?", store=False, max_output_tokens=100)
            check(f"{model}: text", events(connection, model)[-1].response.output_text, TEXT)


def errors():
    with client.responses.connect() as connection:
        connection.response.create(model="plain", input="?", previous_response_id="resp_nope", store=False)
        error = events(connection, "continuation of an unknown response")[-1]
        check(
            "continuation of an unknown response: status and code",
            (error.status, error.error.code),
            (400, "previous_response_not_found"),
        )
        connection.response.create(model="only-limited-streamed", input="?", store=False)
        error = events(connection, "rate limit")[-1]
        check("rate limit: status and code", (error.status, error.error.code), (429, "rate_limit_exceeded"))
        check("rate limit: retry-after is positive", int(error.error.headers["retry-after"]) > 0, True)
        connection.response.create(model="only-halfway-streamed", input="?", store=False)
        error = events(connection, "stream that breaks off")[-1]
        check("stream that breaks off: type of the last event", error.type in ("error", "response.failed"), True)
        connection.send({"type": "response.steer", "previous_response_id": "resp_nope", "input": "?"})
        data = json.loads(connection.recv_bytes())
        check("steering: type errors of the event", type_errors(data, ResponsesServerEvent), [])
        check(
            "steering: type and error code",
            (data["type"], data["error"]["code"]),
            ("response.steer.failed", "steering_not_supported"),
        )
    refused = openai.OpenAI(api_key="wrong", max_retries=0).responses.connect(max_retries=0)
    raises("exception for an unknown key", InvalidStatus, refused.enter)


for part in (responses, errors):
    attempt(part.__name__, part)

end()
