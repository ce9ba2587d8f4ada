"""Anthropic's official Python client, unchanged, against a node.

Environment: ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY (every scope).
The last line is `N passed, M failed`.
"""

import json

import anthropic
from checks import attempt, check, end, raises

TEXT = "All is well é🙂"
ASK = [{"role": "user", "content": "How are you?"}]
TOOLS = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]

# Retries are the gateway's job: with its own the client would hide what the node does.
client = anthropic.Anthropic(max_retries=0, timeout=120)


def ask(model, using=client, **options):
    return using.messages.create(model=model, max_tokens=100, messages=ASK, **options)


def answer(model):
    message = ask(model)
    check(f"{model}: text", (message.content[0].text, message.stop_reason), (TEXT, "end_turn"))
    check(f"{model}: usage", (message.usage.input_tokens, message.usage.output_tokens), (7, 5))


def stream(model):
    with client.messages.stream(model=model, max_tokens=100, messages=ASK) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    check(f"{model}: streamed", (text, message.content[0].text, message.stop_reason), (TEXT, TEXT, "end_turn"))
    check(f"{model}: streamed usage", message.usage.output_tokens, 5)


def tools(model, streamed):
    if streamed:
        with client.messages.stream(model=model, max_tokens=100, messages=ASK, tools=TOOLS) as events:
            message = events.get_final_message()
    else:
        message = ask(model, tools=TOOLS)
    calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    check(f"{model}: calls", calls, [("weather", {"city": "Zürich"}), ("clock", {"zone": "CET"})])
    check(f"{model}: why it stops", message.stop_reason, "tool_use")
    # The next turn: the result of a call, and an image.
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "It rains."}]}
        for block in message.content
        if block.type == "tool_use"
    ]
    turn = [
        *ASK,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": [*results, {"type": "image", "source": image}]},
    ]
    after = client.messages.create(model="plain", max_tokens=100, messages=turn, tools=TOOLS)
    check(f"{model}: the next turn", after.content[0].text, "I see an image.")


def structured(model):
    """The provider answers so only if the schema reaches it."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
        "required": ["city", "degrees"],
        "additionalProperties": False,
    }
    message = ask(model, output_config={"format": {"type": "json_schema", "schema": schema}})
    check(f"{model}: structured", json.loads(message.content[0].text), {"city": "Zürich", "degrees": 21})


def image(model):
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    message = client.messages.create(model=model, max_tokens=100, messages=[{"role": "user", "content": content}])
    check(f"{model}: image", message.content[0].text, "I see an image.")


def broken():
    with client.messages.stream(model="only-halfway-streamed", max_tokens=100, messages=ASK) as events:
        return "".join(events.text_stream)


def main():
    for model in ("plain", "via-broken", "via-limited"):
        attempt(model, lambda: answer(model))
    for model in ("plain", "via-early-streamed", "via-error-first-streamed"):
        attempt(f"{model}, streamed", lambda: stream(model))
    attempt("tools", lambda: tools("only-tools", False))
    attempt("tools, streamed", lambda: tools("only-tools-streamed", True))
    for model in ("plain", "openai-good", "anthropic-good"):
        attempt(f"structured, {model}", lambda: structured(model))
        attempt(f"image, {model}", lambda: image(model))
    attempt("count", lambda: check(
        "tokens", client.messages.count_tokens(model="plain", messages=ASK).input_tokens > 0, True))
    attempt("models", lambda: check("models", "plain" in [model.id for model in client.models.list()], True))
    raises("no such model", anthropic.NotFoundError, lambda: ask("nothing"))
    raises("a field that no candidate has", anthropic.BadRequestError, lambda: ask("plain", extra_body={"top_k": 3}))
    wrong = client.with_options(api_key="wrong")
    raises("a wrong key", anthropic.AuthenticationError, lambda: ask("plain", using=wrong))
    raises("all limited", anthropic.RateLimitError, lambda: ask("all-limited"))
    raises("a broken stream", anthropic.APIStatusError, broken)
    end()


main()
