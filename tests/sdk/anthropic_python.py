"""Checks a node with Anthropic's official Python client, unchanged.

Environment: ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY (every scope).
The last line is `N passed, M failed`.
"""

import json

import anthropic
from checks import attempt, check, end, raises

TEXT = "All is well é🙂"
QUESTION = [{"role": "user", "content": "How are you?"}]
TOOLS = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]

# No retries of the client: they would hide failures of the node.
client = anthropic.Anthropic(max_retries=0, timeout=120)


def ask(model, using=client, **options):
    return using.messages.create(model=model, max_tokens=100, messages=QUESTION, **options)


def answer(model):
    message = ask(model)
    check(f"{model}: text and stop reason", (message.content[0].text, message.stop_reason), (TEXT, "end_turn"))
    check(f"{model}: tokens", (message.usage.input_tokens, message.usage.output_tokens), (7, 5))


def stream(model):
    with client.messages.stream(model=model, max_tokens=100, messages=QUESTION) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    check(
        f"{model}, streamed: text of the events and of the message, and stop reason",
        (text, message.content[0].text, message.stop_reason),
        (TEXT, TEXT, "end_turn"),
    )
    check(f"{model}, streamed: tokens of output", message.usage.output_tokens, 5)


def tools(model, streamed):
    if streamed:
        with client.messages.stream(model=model, max_tokens=100, messages=QUESTION, tools=TOOLS) as events:
            message = events.get_final_message()
    else:
        message = ask(model, tools=TOOLS)
    calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    check(f"{model}: calls", calls, [("weather", {"city": "Zürich"}), ("clock", {"zone": "CET"})])
    check(f"{model}: stop reason", message.stop_reason, "tool_use")
    # The next turn has the results of the calls and an image.
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "It rains."}]}
        for block in message.content
        if block.type == "tool_use"
    ]
    turn = [
        *QUESTION,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": [*results, {"type": "image", "source": image}]},
    ]
    after = client.messages.create(model="plain", max_tokens=100, messages=turn, tools=TOOLS)
    check(f"{model}: answer to results and an image", after.content[0].text, "I see an image.")


def structured(model):
    """The provider gives this answer only if the schema reaches it."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
        "required": ["city", "degrees"],
        "additionalProperties": False,
    }
    message = ask(model, output_config={"format": {"type": "json_schema", "schema": schema}})
    check(f"{model}: answer with a schema", json.loads(message.content[0].text), {"city": "Zürich", "degrees": 21})


def image(model):
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    message = client.messages.create(model=model, max_tokens=100, messages=[{"role": "user", "content": content}])
    check(f"{model}: answer to an image", message.content[0].text, "I see an image.")


def broken_stream():
    with client.messages.stream(model="only-halfway-streamed", max_tokens=100, messages=QUESTION) as events:
        return "".join(events.text_stream)


def token_count():
    count = client.messages.count_tokens(model="plain", messages=QUESTION)
    check("token count is positive", count.input_tokens > 0, True)


def models():
    check("models: plain is listed", "plain" in [model.id for model in client.models.list()], True)


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
    attempt("token count", token_count)
    attempt("models", models)
    raises("exception for an unknown model", anthropic.NotFoundError, lambda: ask("nothing"))
    raises(
        "exception for a field that no candidate supports",
        anthropic.BadRequestError,
        lambda: ask("plain", extra_body={"container": "container_1"}),
    )
    wrong = client.with_options(api_key="wrong")
    raises("exception for an unknown key", anthropic.AuthenticationError, lambda: ask("plain", using=wrong))
    raises("exception if all candidates are rate limited", anthropic.RateLimitError, lambda: ask("all-limited"))
    raises("exception for a stream that breaks off", anthropic.APIStatusError, broken_stream)
    end()


main()
