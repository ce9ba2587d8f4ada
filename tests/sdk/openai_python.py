"""OpenAI's official Python client, unchanged, against a node.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope), OUTLIVE_INFERENCE_KEY (no admin scope).
The last line is `N passed, M failed`.
"""

import json
import os

import openai
import pydantic
from checks import attempt, check, end, raises

TEXT = "All is well é🙂"
ASK = [{"role": "user", "content": "How are you?"}]

# Retries are the gateway's job: with its own the client would hide what the node does.
client = openai.OpenAI(max_retries=0, timeout=120)


def chat(model, using=client, **options):
    return using.chat.completions.create(model=model, messages=ASK, **options)


def answer(model):
    completion = chat(model)
    choice = completion.choices[0]
    check(f"{model}: text", (choice.message.content, choice.finish_reason), (TEXT, "stop"))
    check(f"{model}: usage", completion.usage.total_tokens, 12)


def stream(model):
    text, usage, finish = "", None, []
    for chunk in chat(model, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish += [choice.finish_reason] if choice.finish_reason else []
    check(f"{model}: streamed", (text, finish, usage and usage.total_tokens), (TEXT, ["stop"], 12))


def tools():
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    calls = {}
    for chunk in chat("only-tools-streamed", stream=True, tools=[weather]):
        for call in chunk.choices[0].delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
    expected = {0: ("weather", {"city": "Zürich"}), 1: ("clock", {"zone": "CET"})}
    check("tools: streamed", {i: (name, json.loads(text)) for i, (name, text) in calls.items()}, expected)
    message = chat("only-tools", tools=[weather]).choices[0].message
    check("tools", [call.function.name for call in message.tool_calls], ["weather", "clock"])


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


def structured(model):
    """The provider answers so only if the schema reaches it."""
    completion = client.chat.completions.parse(model=model, messages=ASK, response_format=Weather, max_completion_tokens=100)
    check(f"{model}: structured", completion.choices[0].message.parsed, Weather(city="Zürich", degrees=21))
    with client.chat.completions.stream(model=model, messages=ASK, response_format=Weather, max_completion_tokens=100) as events:
        streamed = events.get_final_completion().choices[0].message.parsed
    check(f"{model}: structured, streamed", streamed, Weather(city="Zürich", degrees=21))
    response = client.responses.parse(model=model, input=ASK, text_format=Weather, store=False, max_output_tokens=100)
    check(f"{model}: structured response", response.output_parsed, Weather(city="Zürich", degrees=21))


def image(model):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    completion = client.chat.completions.create(model=model, messages=asked, max_completion_tokens=100)
    check(f"{model}: image", completion.choices[0].message.content, "I see an image.")


def responses(model):
    response = client.responses.create(model=model, input="How are you?", store=False, max_output_tokens=100)
    check(f"{model}: response", (response.output_text, response.status), (TEXT, "completed"))
    with client.responses.stream(model=model, input="How are you?", store=False, max_output_tokens=100) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    check(f"{model}: response, streamed", (final.output_text, kinds[0], kinds[-1]), (TEXT, "response.created", "response.completed"))


def headers():
    raw = client.chat.completions.with_raw_response.create(model="plain", messages=ASK)
    check("raw: who answered", raw.headers.get("x-outlive-provider"), "good")
    check("raw: request id", bool(raw.headers.get("x-request-id")), True)


def broken_stream():
    chunks = []

    def read():
        for chunk in chat("only-halfway-streamed", stream=True):
            chunks.extend(choice.delta.content or "" for choice in chunk.choices)

    raises("a stream that breaks off", openai.APIError, read, code="stream_interrupted")
    check("a stream that breaks off, before", "".join(chunks), "All is")


def errors():
    raises("unknown model", openai.NotFoundError, lambda: chat("nope"), code="model_not_found", param="model", status_code=404)
    wrong, inference = client.with_options(api_key="wrong"), client.with_options(api_key=os.environ["OUTLIVE_INFERENCE_KEY"])
    raises("wrong key", openai.AuthenticationError, lambda: chat("plain", wrong), code="invalid_api_key", status_code=401)
    status = lambda: inference.get("/status", cast_to=object)
    raises("missing scope", openai.PermissionDeniedError, status, code="insufficient_scope", status_code=403)
    raises("rate limited", openai.RateLimitError, lambda: chat("only-limited"), code="rate_limit_exceeded", status_code=429)
    raises("rate limited, streamed", openai.RateLimitError, lambda: chat("only-limited", stream=True), code="rate_limit_exceeded")
    none = lambda: client.chat.completions.create(model="plain", messages=[])
    raises("no message", openai.BadRequestError, none, code="invalid_value", param="messages", status_code=400)
    raises("the provider refuses", openai.BadRequestError, lambda: chat("only-caller-error"), code="decimal_above_max_value", param="temperature")
    raises("all broken", openai.InternalServerError, lambda: chat("only-broken"))
    raises("unknown conversation", openai.NotFoundError, lambda: client.conversations.retrieve("conv_nope"), code="conversation_not_found")


def models():
    ids = [model.id for model in client.models.list()]
    check("models", {"plain", "via-limited"} <= set(ids), True)
    check("one model", client.models.retrieve("plain").id, "plain")


def conversations():
    made = client.conversations.create(metadata={"topic": "é🙂"}, items=[{"role": "user", "content": "item 0"}])
    check("conversation", (made.object, made.metadata), ("conversation", {"topic": "é🙂"}))
    check("conversation, again", client.conversations.retrieve(made.id), made)
    for first in (1, 16):
        items = [{"type": "message", "role": "user", "content": f"item {i}"} for i in range(first, first + 15)]
        added = client.conversations.items.create(made.id, items=items)
        check("items", [item.content[0].text for item in added.data], [item["content"] for item in items])
    listed = list(client.conversations.items.list(made.id, order="asc", limit=10))
    check("all pages", [item.content[0].text for item in listed], [f"item {i}" for i in range(31)])
    check("types", {(item.type, item.role, item.content[0].type) for item in listed}, {("message", "user", "input_text")})
    first = listed[0]
    check("one item", client.conversations.items.retrieve(first.id, conversation_id=made.id), first)
    unknown = lambda: client.conversations.items.retrieve("msg_nope", conversation_id=made.id)
    raises("no such item", openai.NotFoundError, unknown, code="item_not_found", status_code=404)
    updated = client.conversations.update(made.id, metadata={"topic": "other"})
    check("updated", (updated.id, updated.metadata), (made.id, {"topic": "other"}))
    check("updated, again", client.conversations.retrieve(made.id), updated)
    newest = client.conversations.items.list(made.id, limit=2)
    check("newest first", [item.content[0].text for item in newest.data], ["item 30", "item 29"])


for model in ("plain", "via-limited", "via-broken", "via-early"):
    attempt(model, lambda: answer(model))
    attempt(f"{model}, streamed", lambda: stream(model if model == "plain" else f"{model}-streamed"))
for model in ("plain", "openai-good", "anthropic-good"):
    for part in (structured, image, responses):
        attempt(f"{part.__name__}, {model}", lambda: part(model))
for part in (tools, headers, broken_stream, errors, models, conversations):
    attempt(part.__name__, part)

end()
