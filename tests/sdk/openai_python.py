"""Checks a node with OpenAI's official Python client, unchanged.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope), OUTLIVE_INFERENCE_KEY (no admin scope).
The last line is `N passed, M failed`.
"""

import json
import os

import openai
import pydantic
from checks import attempt, check, end, raises

TEXT = "All is well é🙂"
QUESTION = [{"role": "user", "content": "How are you?"}]

# No retries of the client: they would hide failures of the node.
client = openai.OpenAI(max_retries=0, timeout=120)


def chat(model, using=client, **options):
    return using.chat.completions.create(model=model, messages=QUESTION, **options)


def answer(model):
    completion = chat(model)
    choice = completion.choices[0]
    check(f"{model}: text and finish reason", (choice.message.content, choice.finish_reason), (TEXT, "stop"))
    check(f"{model}: total tokens", completion.usage.total_tokens, 12)


def stream(model):
    text, usage, finish = "", None, []
    for chunk in chat(model, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish += [choice.finish_reason] if choice.finish_reason else []
    check(
        f"{model}, streamed: text, finish reasons and total tokens",
        (text, finish, usage and usage.total_tokens),
        (TEXT, ["stop"], 12),
    )


def tools():
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    calls = {}
    for chunk in chat("only-tools-streamed", stream=True, tools=[weather]):
        for call in chunk.choices[0].delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
    expected = {0: ("weather", {"city": "Zürich"}), 1: ("clock", {"zone": "CET"})}
    check("calls of a streamed answer", {i: (name, json.loads(text)) for i, (name, text) in calls.items()}, expected)
    message = chat("only-tools", tools=[weather]).choices[0].message
    check("calls of an answer", [call.function.name for call in message.tool_calls], ["weather", "clock"])


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


def structured(model):
    """The provider gives this answer only if the schema reaches it."""
    completion = client.chat.completions.parse(model=model, messages=QUESTION, response_format=Weather, max_completion_tokens=100)
    check(f"{model}: answer with a schema", completion.choices[0].message.parsed, Weather(city="Zürich", degrees=21))
    with client.chat.completions.stream(model=model, messages=QUESTION, response_format=Weather, max_completion_tokens=100) as events:
        streamed = events.get_final_completion().choices[0].message.parsed
    check(f"{model}: streamed answer with a schema", streamed, Weather(city="Zürich", degrees=21))
    options = {"text_format": Weather, "store": False, "max_output_tokens": 100}
    response = client.responses.parse(model=model, input=QUESTION, **options)
    check(f"{model}: response with a schema", response.output_parsed, Weather(city="Zürich", degrees=21))


def image(model):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    completion = client.chat.completions.create(model=model, messages=asked, max_completion_tokens=100)
    check(f"{model}: answer to an image", completion.choices[0].message.content, "I see an image.")


def responses(model):
    response = client.responses.create(model=model, input="How are you?", store=False, max_output_tokens=100)
    check(f"{model}: text and status of a response", (response.output_text, response.status), (TEXT, "completed"))
    with client.responses.stream(model=model, input="How are you?", store=False, max_output_tokens=100) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    check(f"{model}: text of a streamed response, and types of its first and last event", (final.output_text, kinds[0], kinds[-1]), (TEXT, "response.created", "response.completed"))


def headers():
    raw = client.chat.completions.with_raw_response.create(model="plain", messages=QUESTION)
    check("header x-outlive-provider", raw.headers.get("x-outlive-provider"), "good")
    check("header x-request-id is set", bool(raw.headers.get("x-request-id")), True)


def broken_stream():
    chunks = []

    def read():
        for chunk in chat("only-halfway-streamed", stream=True):
            chunks.extend(choice.delta.content or "" for choice in chunk.choices)

    raises("exception for a stream that breaks off", openai.APIError, read, code="stream_interrupted")
    check("text before a stream breaks off", "".join(chunks), "All is")


def errors():
    raises("exception for an unknown model", openai.NotFoundError, lambda: chat("nope"), code="model_not_found", param="model", status_code=404)
    wrong, inference = client.with_options(api_key="wrong"), client.with_options(api_key=os.environ["OUTLIVE_INFERENCE_KEY"])
    raises("exception for an unknown key", openai.AuthenticationError, lambda: chat("plain", wrong), code="invalid_api_key", status_code=401)
    status = lambda: inference.get("/status", cast_to=object)
    raises(
        "exception for a missing scope",
        openai.PermissionDeniedError,
        status,
        code="insufficient_scope",
        status_code=403,
    )
    raises(
        "exception for a rate limit",
        openai.RateLimitError,
        lambda: chat("only-limited"),
        code="rate_limit_exceeded",
        status_code=429,
    )
    raises(
        "exception for a rate limit of a stream",
        openai.RateLimitError,
        lambda: chat("only-limited", stream=True),
        code="rate_limit_exceeded",
    )
    none = lambda: client.chat.completions.create(model="plain", messages=[])
    raises(
        "exception for a request without messages",
        openai.BadRequestError,
        none,
        code="invalid_value",
        param="messages",
        status_code=400,
    )
    raises(
        "exception for an error of the caller",
        openai.BadRequestError,
        lambda: chat("only-caller-error"),
        code="decimal_above_max_value",
        param="temperature",
    )
    raises("exception if all candidates fail", openai.InternalServerError, lambda: chat("only-broken"))
    raises(
        "exception for an unknown conversation",
        openai.NotFoundError,
        lambda: client.conversations.retrieve("conv_nope"),
        code="conversation_not_found",
    )


def models():
    ids = [model.id for model in client.models.list()]
    check("models: the configured ones are listed", {"plain", "via-limited"} <= set(ids), True)
    check("models: id of a single one", client.models.retrieve("plain").id, "plain")


def conversations():
    made = client.conversations.create(metadata={"topic": "é🙂"}, items=[{"role": "user", "content": "item 0"}])
    check("conversation: object and metadata", (made.object, made.metadata), ("conversation", {"topic": "é🙂"}))
    check("conversation: retrieved", client.conversations.retrieve(made.id), made)
    for first in (1, 16):
        items = [{"type": "message", "role": "user", "content": f"item {i}"} for i in range(first, first + 15)]
        added = client.conversations.items.create(made.id, items=items)
        check(
            "conversation: texts of added items",
            [item.content[0].text for item in added.data],
            [item["content"] for item in items],
        )
    listed = list(client.conversations.items.list(made.id, order="asc", limit=10))
    check(
        "conversation: texts of all pages",
        [item.content[0].text for item in listed],
        [f"item {i}" for i in range(31)],
    )
    check(
        "conversation: types and roles of the items",
        {(item.type, item.role, item.content[0].type) for item in listed},
        {("message", "user", "input_text")},
    )
    first = listed[0]
    check("conversation: single item", client.conversations.items.retrieve(first.id, conversation_id=made.id), first)
    unknown = lambda: client.conversations.items.retrieve("msg_nope", conversation_id=made.id)
    raises("exception for an unknown item", openai.NotFoundError, unknown, code="item_not_found", status_code=404)
    updated = client.conversations.update(made.id, metadata={"topic": "other"})
    check(
        "conversation: id and metadata after an update",
        (updated.id, updated.metadata),
        (made.id, {"topic": "other"}),
    )
    check("conversation: retrieved after the update", client.conversations.retrieve(made.id), updated)
    newest = client.conversations.items.list(made.id, limit=2)
    check(
        "conversation: texts in the default order",
        [item.content[0].text for item in newest.data],
        ["item 30", "item 29"],
    )


for model in ("plain", "via-limited", "via-broken", "via-early"):
    attempt(model, lambda: answer(model))
    attempt(f"{model}, streamed", lambda: stream(model if model == "plain" else f"{model}-streamed"))
for model in ("plain", "openai-good", "anthropic-good"):
    for part in (structured, image, responses):
        attempt(f"{part.__name__}, {model}", lambda: part(model))
for part in (tools, headers, broken_stream, errors, models, conversations):
    attempt(part.__name__, part)

end()
