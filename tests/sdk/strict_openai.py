"""Checks each answer and event of the Responses and Conversations API against the types of OpenAI's client and those
generated from the Open Responses document, strictly.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY.
The last line is `N passed, M failed`.
"""

import typing

import pydantic
from checks import attempt, check, end
from openai.types import responses
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem, ConversationItemList
from openai.types.responses.response_item_list import ResponseItemList
from typed_requests import ask, check_error, create, follow, response, send, stream, walk_list

TEXT = "All is well é🙂"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
SCHEMA = {"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
FILE = {"type": "input_file", "filename": "f.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}


class DeletedResponse(pydantic.BaseModel):
    """A deleted response, for which the client has no type."""

    id: str
    object: typing.Literal["response"]
    deleted: typing.Literal[True]


def single_responses():
    plain = create("plain")
    check("plain: the same when it is retrieved", response("retrieved", "GET", f"/responses/{plain['id']}"), plain)
    create("not stored", store=False)
    create("fields that the response has again", instructions="Be brief.", metadata={"k": "é"}, max_output_tokens=100, temperature=0.5, top_p=1)
    create("truncation", truncation="auto")
    create("keys of a cache and of a user", prompt_cache_key="c", safety_identifier="s", user="u")
    create("effort", reasoning={"effort": "low"})
    create("a schema", text=SCHEMA)
    create("a schema with all fields", text={"format": SCHEMA["format"] | {"strict": True, "description": "d"}, "verbosity": "medium"})
    create("an object", text={"format": {"type": "json_object"}})
    create("an empty text", text={})
    create("nulls", instructions=None, tools=None, tool_choice=None, text=None, reasoning=None, metadata=None, temperature=None)
    create("an image", input=[{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, IMAGE]}])
    create("a refusal", model="only-refusal")
    create("history", input=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "phase": "final_answer"}, {"role": "user", "content": "c"}])
    next_one = create("continuation", previous_response_id=plain["id"], input="And then?")
    check("continuation: previous_response_id", next_one["previous_response_id"], plain["id"])
    ask("deleted", DeletedResponse, "DELETE", f"/responses/{next_one['id']}")
    ask("token count", responses.input_token_count_response.InputTokenCountResponse, "POST", "/responses/input_tokens", {"model": "plain", "input": "How many?"})


def truncated():
    """Answers that a limit or a filter ends early, and the status of their items."""
    limit, filter_ = {"max_output_tokens": 3}, {"model": "anthropic-refusal", "max_output_tokens": 100}
    cases = [({"model": model, **limit}, "max_output_tokens") for model in ("plain", "openai-good", "anthropic-good")]
    for fields, reason in [*cases, (filter_, "content_filter")]:
        for store in (True, False):
            case = f"{reason} of {fields['model']}, store {store}"
            whole = create(case, status="incomplete", store=store, **fields)
            last = stream(f"{case}, streamed", ["response.incomplete"], store=store, **fields)[-1]["response"]
            for made in (whole, last):
                check(f"{case}: reason", made["incomplete_details"], {"reason": reason})
                check(f"{case}: status of the items", [item["status"] for item in made["output"]], ["incomplete"])


def broken_streams():
    for store in (True, False):
        case = f"broken stream, store {store}"
        last = stream(case, ["response.failed"], model="only-halfway-streamed", store=store)[-1]["response"]
        check(
            f"{case}: reason",
            (last["status"], last["error"]["code"], last["usage"]),
            ("failed", "server_error", None),
        )
        check(f"{case}: status of the items", [item["status"] for item in last["output"]], ["incomplete"])


def streams():
    text = ["response.in_progress", "response.content_part.added", "response.output_text.delta", "response.output_text.done", "response.completed"]
    for store in (True, False):
        for model in ("plain", "openai-good", "anthropic-good", "deepseek-good"):
            case = f"{model}, streamed, store {store}"
            received = stream(case, text, model=model, store=store, max_output_tokens=100)
            deltas = [event["delta"] for event in received if event["type"] == "response.output_text.delta"]
            check(f"{case}: text of the deltas", "".join(deltas), TEXT)
        stream(f"a refusal, streamed, store {store}", ["response.refusal.delta", "response.refusal.done"], model="only-refusal-streamed", store=store)
        thoughts = ["response.reasoning_text.delta", "response.reasoning_text.done", "response.output_text.delta"]
        received = stream(f"thoughts, streamed, store {store}", thoughts, reasoning={"effort": "low"}, store=store)
        check(f"thoughts, streamed, store {store}: types of the items", [item["type"] for item in received[-1]["response"]["output"]], ["reasoning", "message"])
        thought = create(f"thoughts, store {store}", reasoning={"effort": "low"}, store=store)
        check(
            f"thoughts, store {store}: types of the items",
            [item["type"] for item in thought["output"]],
            ["reasoning", "message"],
        )
        calls = ["response.function_call_arguments.delta", "response.function_call_arguments.done"]
        received = stream(f"calls, streamed, store {store}", calls, model="only-tools-streamed", tools=[WEATHER], store=store)
        check(f"calls, streamed, store {store}: names of the calls", [item["name"] for item in received[-1]["response"]["output"]], ["weather", "clock"])


def resumed_streams():
    received = stream("to be resumed")
    path = f"/responses/{received[0]['response']['id']}?stream=true"
    check("resumed from the start: events", follow("resumed from the start", "GET", path), received)
    for after in (0, 4, len(received) - 2):
        rest = follow(f"resumed after event {after}", "GET", f"{path}&starting_after={after}", after=after)
        check(f"resumed after event {after}: events", rest, received[after + 1 :])


def background():
    queued = create("in the background", status="queued", background=True)
    check(
        "in the background: background, output and usage",
        (queued["background"], queued["output"], queued["usage"]),
        (True, [], None),
    )
    path = f"/responses/{queued['id']}"
    follow("in the background, followed", "GET", f"{path}?stream=true", kinds=["response.queued", "response.completed"])
    response("in the background, retrieved", "GET", path)
    stream("in the background, streamed", ["response.queued", "response.in_progress"], background=True)
    slow = create("slow", status="queued", background=True, model="slow")
    response("cancelled", "POST", f"/responses/{slow['id']}/cancel", {}, status="cancelled")
    response("cancelled, retrieved", "GET", f"/responses/{slow['id']}", status="cancelled")
    follow("cancelled, followed", "GET", f"/responses/{slow['id']}?stream=true")
    failed = create("to fail", status="queued", background=True, model="only-broken")
    path = f"/responses/{failed['id']}"
    received = follow("failed, followed", "GET", f"{path}?stream=true", kinds=["response.failed"])
    check("failed: error code", received[-1]["response"]["error"]["code"], "server_error")
    check(
        "failed: usage of the retrieved response",
        response("failed, retrieved", "GET", path, status="failed")["usage"],
        None,
    )


def tools():
    for choice in ("auto", "none", "required", {"type": "function", "name": "weather"}):
        create(f"a choice of tools, {choice}", tools=[WEATHER], tool_choice=choice)
    create("tools, all of them", tools=[WEATHER | {"strict": True, "description": "d"}], parallel_tool_calls=False)
    asked = create("calls", model="only-tools", tools=[WEATHER])
    check("calls: names of the functions", [item["name"] for item in asked["output"]], ["weather", "clock"])
    outputs = [{"type": "function_call_output", "call_id": item["call_id"], "output": "fine"} for item in asked["output"]]
    create("calls, answered", previous_response_id=asked["id"], input=outputs, tools=[WEATHER])
    parts = [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]}]
    call = [{"role": "user", "content": "?"}, {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}]
    made = create("calls in the input, answered", input=call + parts, tools=[WEATHER])
    walk_list("input items of calls", ResponseItemList, f"/responses/{made['id']}/input_items", 3)


SHOP = {"type": "mcp", "server_label": "shop"}
GUARDED = {"type": "mcp", "server_label": "guarded"}


def mcp_calls():
    """Calls that the node makes, and calls that need an approval."""
    work = 'think hm\ncall shop__lookup {"city": "Ulm"}\ncall shop__fail'
    made = create("calls of the node", model="agent", input=work, tools=[SHOP])
    check("calls of the node: types of the items", [item["type"] for item in made["output"]], ["mcp_list_tools", "mcp_call", "mcp_call", "message"])
    kinds = [f"response.mcp_{kind}" for kind in ("list_tools.in_progress", "list_tools.completed", "call.in_progress", "call_arguments.done", "call.completed", "call.failed")]
    received = stream("calls of the node, streamed", kinds=kinds, model="agent", input=work, tools=[SHOP])
    path = f"/responses/{received[-1]['response']['id']}?stream=true&starting_after"
    for after in range(len(received) - 1):
        rest = follow(f"calls of the node, resumed after event {after}", "GET", f"{path}={after}", after=after)
        check(f"calls of the node, resumed after event {after}: events", rest, received[after + 1 :])
    deploy = 'call guarded__deploy {"target": "strict"}'
    conversation = ask("a conversation with calls", Conversation, "POST", "/conversations", {})["id"]
    asked = create("an approval is asked for", model="agent", input=deploy, tools=[GUARDED], conversation=conversation)
    request = asked["output"][-1]["id"]
    word = {"type": "mcp_approval_response", "approval_request_id": request, "approve": True}
    given = stream("an approval is given", model="agent", input=[word], tools=[GUARDED], conversation=conversation)[-1]["response"]
    check("an approval is given: request of the call", [item["approval_request_id"] for item in given["output"] if item["type"] == "mcp_call"], [request])
    walk_list("input items of an approval", ResponseItemList, f"/responses/{given['id']}/input_items", 1)
    ids = walk_list("items with calls", ConversationItemList, f"/conversations/{conversation}/items", 6)
    for item in ids:
        ask("an item with a call", ConversationItem, "GET", f"/conversations/{conversation}/items/{item}")


def deletions():
    made = ask("a conversation to delete", Conversation, "POST", "/conversations", {"items": [{"role": "user", "content": "text"}]})
    path = f"/conversations/{made['id']}"
    item = walk_list("item to delete", ConversationItemList, f"{path}/items", 1)[0]
    check(
        "a deleted item: the conversation",
        ask("delete an item", Conversation, "DELETE", f"{path}/items/{item}"),
        made,
    )
    check_error(
        "get a deleted item",
        404,
        "invalid_request_error",
        "item_not_found",
        "item_id",
        "GET",
        f"{path}/items/{item}",
    )
    gone = ask("delete a conversation", ConversationDeletedResource, "DELETE", path)
    check("a deleted conversation: answer", gone, {"id": made["id"], "object": "conversation.deleted", "deleted": True})
    check_error(
        "get a deleted conversation",
        404,
        "invalid_request_error",
        "conversation_not_found",
        "conversation_id",
        "GET",
        path,
    )


def items():
    """Sends input items of each kind, with as few fields as possible. Returns them."""
    given = [
        {"role": "user", "content": "text"},
        {"role": "user", "content": [{"type": "input_text", "text": "t"}, IMAGE, FILE]},
        {"role": "system", "content": "text"},
        {"role": "developer", "content": [{"type": "input_text", "text": "text"}]},
        {"role": "assistant", "content": "text"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "text"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "fine"},
        {"type": "reasoning", "summary": []},
        # As clients store what they received: with nulls for missing fields.
        {"type": "message", "id": "msg_1", "role": "assistant", "status": None, "phase": None, "content": [{"type": "output_text", "text": "t", "annotations": None, "logprobs": None}]},
        {"type": "function_call", "id": None, "status": None, "call_id": "d", "name": "weather", "arguments": "{}"},
        {"type": "reasoning", "id": "rs_1", "status": None, "summary": [], "content": None, "encrypted_content": None},
    ]
    made = create("each kind of item", input=given)
    walk_list("input items", ResponseItemList, f"/responses/{made['id']}/input_items", len(given))
    return given


def conversations():
    given = items()
    custom = [
        {"type": "custom_tool_call", "call_id": "e", "name": "shell", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "e", "output": "fine"},
    ]
    made = ask("a conversation of other tools", Conversation, "POST", "/conversations", {"items": custom})
    walk_list("items of other tools", ConversationItemList, f"/conversations/{made['id']}/items", 2)
    empty = ask("an empty conversation", Conversation, "POST", "/conversations", {})
    check("an empty conversation: its list", send("GET", f"/conversations/{empty['id']}/items"), (200, {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}))
    made = ask("a conversation", Conversation, "POST", "/conversations", {"metadata": {"k": "é"}, "items": given[:1]})
    path = f"/conversations/{made['id']}"
    check("a conversation: the same when it is retrieved", ask("retrieved", Conversation, "GET", path), made)
    ask("updated", Conversation, "POST", path, {"metadata": {"k": "v"}})
    added = ask("items added", ConversationItemList, "POST", f"{path}/items", {"items": given[1:]})
    ids = walk_list("items", ConversationItemList, f"{path}/items", len(given))
    check("items added: in order", [item["id"] for item in added["data"]], ids[1:])
    for item in ids:
        ask("an item", ConversationItem, "GET", f"{path}/items/{item}")
    answer = create("in a conversation", conversation=made["id"], input="And now?")
    check("in a conversation: field of the response", answer["conversation"], {"id": made["id"]})
    create("in a conversation, as an object", conversation={"id": made["id"]}, input=[{"role": "user", "content": "And?"}])
    stream("in a conversation, streamed", conversation=made["id"], input="Streamed?")
    create("calls in a conversation", conversation=made["id"], input="Weather?", model="only-tools", tools=[WEATHER])
    limit = {"status": "incomplete", "max_output_tokens": 3}
    short = create("truncated in a conversation", conversation=made["id"], input="Cut?", **limit)
    ids = walk_list("items after turns", ConversationItemList, f"{path}/items", len(given) + 11)
    turn_ids = [item["id"] for item in answer["output"]]
    check("items of a turn in the list", turn_ids, ids[len(given) + 1 : len(given) + 2])
    for item in answer["output"] + short["output"]:
        check("an item of a turn", ask("an item of a turn", ConversationItem, "GET", f"{path}/items/{item['id']}"), item)


def errors():
    invalid = "invalid_request_error"
    none, conversation = f"resp_{'0' * 64}", f"conv_{'0' * 32}"
    for path, method in ((f"/responses/{none}", "GET"), (f"/responses/{none}", "DELETE"), (f"/responses/{none}/cancel", "POST"), (f"/responses/{none}/input_items", "GET")):
        check_error(f"{method} {path}", 404, invalid, "response_not_found", "response_id", method, path)
    for path, method in ((f"/conversations/{conversation}", "GET"), (f"/conversations/{conversation}/items", "GET"), (f"/conversations/{conversation}/items/msg_1", "GET")):
        check_error(f"{method} {path}", 404, invalid, "conversation_not_found", "conversation_id", method, path)
    made = send("POST", "/conversations", {})[1]
    check_error("unknown item", 404, invalid, "item_not_found", "item_id", "GET", f"/conversations/{made['id']}/items/msg_1")
    for case, status, code, param, fields in (
        ("unknown model", 404, "model_not_found", "model", {"model": "nope"}),
        ("unknown previous response", 400, "previous_response_not_found", "previous_response_id", {"previous_response_id": none}),
        ("unknown conversation", 404, "conversation_not_found", "conversation_id", {"conversation": conversation}),
        ("a result without a call", 400, "invalid_value", "input", {"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}),
        ("an unknown type", 400, "invalid_value", "input[0].type", {"input": [{"type": "nope"}]}),
        ("an unknown role", 400, "invalid_value", "input[0].role", {"input": [{"role": "nope", "content": "?"}]}),
        ("a number in metadata", 400, "invalid_type", "metadata", {"metadata": {"k": 1}}),
        ("unknown truncation", 400, "invalid_value", "truncation", {"truncation": "nope"}),
    ):
        check_error(
            case,
            status,
            invalid,
            code,
            param,
            "POST",
            "/responses",
            {"model": "plain", "input": "?", **fields},
        )
    done = send("POST", "/responses", {"model": "plain", "input": "?"})[1]["id"]
    check_error("cancel of a response that is not in the background", 400, invalid, "invalid_value", "response_id", "POST", f"/responses/{done}/cancel")
    check_error("starting_after without a stream", 400, invalid, "invalid_value", "starting_after", "GET", f"/responses/{done}?starting_after=1")
    check_error("unknown cursor", 400, invalid, "invalid_value", "after", "GET", f"/responses/{done}/input_items?after=msg_1")


for part in (
    single_responses, truncated, broken_streams, streams, resumed_streams, background, tools, mcp_calls, conversations,
    deletions, errors,
):
    attempt(part.__name__, part)

end()
