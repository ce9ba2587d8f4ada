"""OpenAI's official Python client over a WebSocket, unchanged, against a node; and its types of events, read strictly.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope).
The last line is `N passed, M failed`.
"""

import json

import openai
from checks import attempt, check, end, raises
from openai.types.responses import ResponsesServerEvent
from strict import disorder, mistakes
from websockets.exceptions import InvalidStatus

TEXT = "All is well é🙂"
ENDS = {"response.completed", "response.incomplete", "response.failed", "error"}

client = openai.OpenAI(max_retries=0, timeout=120)


def events(connection, case):
    """The events of one response, each of them faultless."""
    found = []
    while not found or found[-1].type not in ENDS:
        data = connection.recv_bytes()
        check(f"{case}, types", mistakes(json.loads(data), ResponsesServerEvent), [])
        found.append(connection.parse_event(data))
    return found


def talk():
    with client.responses.connect() as connection:
        connection.response.create(model="plain", input="How are you?", stream_id="one")
        seen = events(connection, "kept")
        check("kept, order", disorder([event.to_dict() for event in seen]), [])
        check("kept, lane", {event.stream_id for event in seen}, {"one"})
        response = seen[-1].response
        check("kept", (response.output_text, response.status), (TEXT, "completed"))
        check("kept, over HTTP", client.responses.retrieve(response.id), response)
        connection.response.create(model="plain", input="Again?", store=False, previous_response_id=response.id, stream_id="one")
        last = events(connection, "not kept")[-1].response
        check("not kept", (last.output_text, last.previous_response_id), (TEXT, response.id))
        for model in ("openai-good", "anthropic-good", "deepseek-good"):
            connection.response.create(model=model, input="How are you?", store=False, max_output_tokens=100)
            check(model, events(connection, model)[-1].response.output_text, TEXT)


def errors():
    with client.responses.connect() as connection:
        connection.response.create(model="plain", input="?", previous_response_id="resp_nope", store=False)
        error = events(connection, "no such response")[-1]
        check("no such response", (error.status, error.error.code), (400, "previous_response_not_found"))
        connection.response.create(model="only-limited-streamed", input="?", store=False)
        error = events(connection, "rate limited")[-1]
        check("rate limited", (error.status, error.error.code), (429, "rate_limit_exceeded"))
        check("rate limited, until", int(error.error.headers["retry-after"]) > 0, True)
        connection.response.create(model="only-halfway-streamed", input="?", store=False)
        error = events(connection, "broken off")[-1]
        check("broken off", error.type in ("error", "response.failed"), True)
        connection.send({"type": "response.steer", "previous_response_id": "resp_nope", "input": "?"})
        data = json.loads(connection.recv_bytes())
        check("steered, types", mistakes(data, ResponsesServerEvent), [])
        check("steered", (data["type"], data["error"]["code"]), ("response.steer.failed", "steering_not_supported"))
    refused = openai.OpenAI(api_key="wrong", max_retries=0).responses.connect(max_retries=0)
    raises("wrong key", InvalidStatus, refused.enter)


for part in (talk, errors):
    attempt(part.__name__, part)

end()
