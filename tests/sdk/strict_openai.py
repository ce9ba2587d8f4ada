"""Every answer and event of the Responses and Conversations API, by the strictest reading of the types in OpenAI's client
and of those made of the Open Responses document.

Environment: OPENAI_BASE_URL, OPENAI_API_KEY.
The last line is `N passed, M failed`.
"""

import json
import os
import time
import typing
import urllib.error
import urllib.request

import openresponses_types as openresponses
import pydantic
from checks import attempt, check, end
from openai.types import responses
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem, ConversationItemList
from openai.types.responses.response_item_list import ResponseItemList
from openai.types.shared import ErrorObject
from strict import disorder, mistakes

TEXT = "All is well é🙂"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
SCHEMA = {"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
FILE = {"type": "input_file", "filename": "f.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}


class Deleted(pydantic.BaseModel):
    """A deleted response, for which the client has no type."""

    id: str
    object: typing.Literal["response"]
    deleted: typing.Literal[True]


class Refused(pydantic.BaseModel):
    error: ErrorObject


def send(method, path, body=None):
    """The status, and the body as JSON or as events."""
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
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if lines:
            found.append(json.loads(lines["data"]))
            check("an event's name is its type", lines.get("event"), found[-1]["type"])
    return found


def ask(case, kind, method, path, body=None):
    """Expects status 200 and a faultless `kind`."""
    status, answer = send(method, path, body)
    check(f"{case}: {answer if status != 200 else ''} status", status, 200)
    check(case, mistakes(answer, kind), [])
    return answer


def open_responses(case, answer):
    """The other description: it requires more, and knows fewer items."""
    format_ = (answer.get("text") or {}).get("format") or {}
    if "schema" in format_:
        # The document says that a schema is null.
        answer = answer | {"text": answer["text"] | {"format": format_ | {"schema": None}}}
    # It knows nothing of servers.
    own = {"output": [item for item in answer["output"] if not item["type"].startswith("mcp_")], "tools": [tool for tool in answer["tools"] if tool["type"] != "mcp"]}
    answer = answer | own
    try:
        openresponses.ResponseResource.model_validate_json(json.dumps(answer))
        wrong = []
    except pydantic.ValidationError as error:
        wrong = [(line["loc"], line["msg"]) for line in error.errors()]
    check(f"{case}, Open Responses", wrong, [])


def response(case, method, path, body=None, status="completed"):
    answer = ask(case, responses.Response, method, path, body)
    open_responses(case, answer)
    # What waits may have begun by now.
    saw = "queued" if status == "queued" and answer["status"] == "in_progress" else answer["status"]
    check(f"{case}: status", saw, status)
    check(f"{case}: when it was completed", answer["completed_at"] is not None, status == "completed")
    return answer


def create(case, status="completed", **fields):
    return response(case, "POST", "/responses", {"model": "plain", "input": "How are you?", **fields}, status)


def follow(case, method, path, body=None, after=-1, kinds=()):
    """Expects faultless events in order, `kinds` among them."""
    status, seen = send(method, path, body)
    check(f"{case}: status", status, 200)
    check(case, [line for event in seen for line in mistakes(event, responses.ResponseStreamEvent, event["type"])], [])
    check(f"{case}, order", disorder(seen, after), [])
    check(f"{case}, kinds", [kind for kind in kinds if kind not in [event["type"] for event in seen]], [])
    for event in seen:
        if "response" in event:
            open_responses(f"{case}, {event['type']}", event["response"])
    return seen


def stream(case, kinds=(), **fields):
    return follow(case, "POST", "/responses", {"model": "plain", "input": "How are you?", "stream": True, **fields}, kinds=kinds)


def listed(case, kind, path, n):
    """Walks through a list, two items a page, in both orders."""
    orders = []
    for order in ("asc", "desc"):
        ids, more, after = [], True, ""
        while more:
            page = ask(f"{case}, {order}", kind, "GET", f"{path}?limit=2&order={order}{after}")
            ids += [item["id"] for item in page["data"]]
            more, after = page["has_more"], f"&after={page['last_id']}"
            check(f"{case}: the page's ends", [page["first_id"], page["last_id"]], [page["data"][0]["id"], page["data"][-1]["id"]])
        orders.append(ids)
    check(f"{case}: all pages", (len(orders[0]), orders[0]), (n, orders[1][::-1]))
    return orders[0]


def refused(case, status, kind, code, param, method, path, body=None):
    seen, answer = send(method, path, body)
    check(f"{case}: its fields", sorted(answer["error"]), ["code", "message", "param", "type"])
    check(f"{case}: its type", mistakes(answer, Refused), [])
    error = answer["error"]
    check(case, (seen, error["type"], error["code"], error["param"]), (status, kind, code, param))


def whole_ones():
    plain = create("plain")
    check("plain, retrieved", response("retrieved", "GET", f"/responses/{plain['id']}"), plain)
    create("not kept", store=False)
    create("everything that is said again", instructions="Be brief.", metadata={"k": "é"}, max_output_tokens=100, temperature=0.5, top_p=1)
    create("truncation", truncation="auto")
    create("a key of a cache, and of a user", prompt_cache_key="c", safety_identifier="s", user="u")
    create("effort", reasoning={"effort": "low"})
    create("a schema", text=SCHEMA)
    create("a schema, all of it", text={"format": SCHEMA["format"] | {"strict": True, "description": "d"}, "verbosity": "medium"})
    create("an object", text={"format": {"type": "json_object"}})
    create("an empty text", text={})
    create("nulls", instructions=None, tools=None, tool_choice=None, text=None, reasoning=None, metadata=None, temperature=None)
    create("an image", input=[{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, IMAGE]}])
    create("a refusal", model="only-refusal")
    create("history", input=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "phase": "final_answer"}, {"role": "user", "content": "c"}])
    next_one = create("after another", previous_response_id=plain["id"], input="And then?")
    check("after another: says after which", next_one["previous_response_id"], plain["id"])
    ask("deleted", Deleted, "DELETE", f"/responses/{next_one['id']}")
    ask("counted", responses.input_token_count_response.InputTokenCountResponse, "POST", "/responses/input_tokens", {"model": "plain", "input": "How many?"})


def cut():
    """What ends an answer early, and which of its items it ends."""
    limit, filter_ = {"max_output_tokens": 3}, {"model": "anthropic-refusal", "max_output_tokens": 100}
    cases = [({"model": model, **limit}, "max_output_tokens") for model in ("plain", "openai-good", "anthropic-good")]
    for fields, reason in [*cases, (filter_, "content_filter")]:
        for store in (True, False):
            case = f"{reason} of {fields['model']}, store {store}"
            whole = create(case, status="incomplete", store=store, **fields)
            last = stream(f"{case}, streamed", ["response.incomplete"], store=store, **fields)[-1]["response"]
            for made in (whole, last):
                check(f"{case}: why", made["incomplete_details"], {"reason": reason})
                check(f"{case}: its items", [item["status"] for item in made["output"]], ["incomplete"])


def broken():
    for store in (True, False):
        case = f"broken off, store {store}"
        last = stream(case, ["response.failed"], model="only-halfway-streamed", store=store)[-1]["response"]
        check(f"{case}: why", (last["status"], last["error"]["code"], last["usage"]), ("failed", "server_error", None))
        check(f"{case}: its items", [item["status"] for item in last["output"]], ["incomplete"])


def streams():
    text = ["response.in_progress", "response.content_part.added", "response.output_text.delta", "response.output_text.done", "response.completed"]
    for store in (True, False):
        for model in ("plain", "openai-good", "anthropic-good", "deepseek-good"):
            seen = stream(f"{model}, streamed, store {store}", text, model=model, store=store, max_output_tokens=100)
            said = "".join(event["delta"] for event in seen if event["type"] == "response.output_text.delta")
            check(f"{model}, streamed, store {store}: text", said, TEXT)
        stream(f"a refusal, streamed, store {store}", ["response.refusal.delta", "response.refusal.done"], model="only-refusal-streamed", store=store)
        thoughts = ["response.reasoning_text.delta", "response.reasoning_text.done", "response.output_text.delta"]
        seen = stream(f"thoughts, streamed, store {store}", thoughts, reasoning={"effort": "low"}, store=store)
        check(f"thoughts, streamed, store {store}: items", [item["type"] for item in seen[-1]["response"]["output"]], ["reasoning", "message"])
        thought = create(f"thoughts, store {store}", reasoning={"effort": "low"}, store=store)
        check(f"thoughts, store {store}: items", [item["type"] for item in thought["output"]], ["reasoning", "message"])
        calls = ["response.function_call_arguments.delta", "response.function_call_arguments.done"]
        seen = stream(f"calls, streamed, store {store}", calls, model="only-tools-streamed", tools=[WEATHER], store=store)
        check(f"calls, streamed, store {store}: both", [item["name"] for item in seen[-1]["response"]["output"]], ["weather", "clock"])


def resumed():
    seen = stream("to be taken up again")
    path = f"/responses/{seen[0]['response']['id']}?stream=true"
    check("a stream, again", follow("again", "GET", path), seen)
    for after in (0, 4, len(seen) - 2):
        rest = follow(f"after {after}", "GET", f"{path}&starting_after={after}", after=after)
        check(f"after {after}: the rest", rest, seen[after + 1 :])


def background():
    queued = create("in the background", status="queued", background=True)
    check("in the background: says so", (queued["background"], queued["output"], queued["usage"]), (True, [], None))
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
    seen = follow("failed, followed", "GET", f"{path}?stream=true", kinds=["response.failed"])
    check("failed: why", seen[-1]["response"]["error"]["code"], "server_error")
    check("failed: usage", response("failed, retrieved", "GET", path, status="failed")["usage"], None)


def tools():
    for choice in ("auto", "none", "required", {"type": "function", "name": "weather"}):
        create(f"a choice of tools, {choice}", tools=[WEATHER], tool_choice=choice)
    create("tools, all of them", tools=[WEATHER | {"strict": True, "description": "d"}], parallel_tool_calls=False)
    asked = create("calls", model="only-tools", tools=[WEATHER])
    check("calls: names", [item["name"] for item in asked["output"]], ["weather", "clock"])
    outputs = [{"type": "function_call_output", "call_id": item["call_id"], "output": "fine"} for item in asked["output"]]
    create("calls, answered", previous_response_id=asked["id"], input=outputs, tools=[WEATHER])
    parts = [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]}]
    call = [{"role": "user", "content": "?"}, {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}]
    made = create("calls of the client, answered", input=call + parts, tools=[WEATHER])
    listed("input items of calls", ResponseItemList, f"/responses/{made['id']}/input_items", 3)


SHOP = {"type": "mcp", "server_label": "shop"}
GUARDED = {"type": "mcp", "server_label": "guarded"}


def servers():
    """Calls that the node makes, and words on those that somebody must approve of."""
    work = 'think hm\ncall shop__lookup {"city": "Ulm"}\ncall shop__fail'
    made = create("calls of the node's", model="agent", input=work, tools=[SHOP])
    check("calls of the node's, items", [item["type"] for item in made["output"]], ["mcp_list_tools", "mcp_call", "mcp_call", "message"])
    kinds = [f"response.mcp_{kind}" for kind in ("list_tools.in_progress", "list_tools.completed", "call.in_progress", "call_arguments.done", "call.completed", "call.failed")]
    seen = stream("calls of the node's, streamed", kinds=kinds, model="agent", input=work, tools=[SHOP])
    path = f"/responses/{seen[-1]['response']['id']}?stream=true&starting_after"
    for after in range(len(seen) - 1):
        rest = follow(f"calls of the node's, after {after}", "GET", f"{path}={after}", after=after)
        check(f"calls of the node's, after {after}: the rest", rest, seen[after + 1 :])
    deploy = 'call guarded__deploy {"target": "strict"}'
    conversation = ask("a conversation with calls", Conversation, "POST", "/conversations", {})["id"]
    asked = create("an approval is asked for", model="agent", input=deploy, tools=[GUARDED], conversation=conversation)
    request = asked["output"][-1]["id"]
    word = {"type": "mcp_approval_response", "approval_request_id": request, "approve": True}
    given = stream("an approval is given", model="agent", input=[word], tools=[GUARDED], conversation=conversation)[-1]["response"]
    check("an approval is given: by its name", [item["approval_request_id"] for item in given["output"] if item["type"] == "mcp_call"], [request])
    listed("its items", ResponseItemList, f"/responses/{given['id']}/input_items", 1)
    ids = listed("items with calls", ConversationItemList, f"/conversations/{conversation}/items", 6)
    for item in ids:
        ask("an item with a call", ConversationItem, "GET", f"/conversations/{conversation}/items/{item}")


def deletions():
    made = ask("a conversation to delete", Conversation, "POST", "/conversations", {"items": [{"role": "user", "content": "text"}]})
    path = f"/conversations/{made['id']}"
    item = listed("its item", ConversationItemList, f"{path}/items", 1)[0]
    check("an item is deleted", ask("an item is deleted", Conversation, "DELETE", f"{path}/items/{item}"), made)
    refused("an item that is deleted", 404, "invalid_request_error", "item_not_found", "item_id", "GET", f"{path}/items/{item}")
    gone = ask("a conversation is deleted", ConversationDeletedResource, "DELETE", path)
    check("a conversation is deleted: which", gone, {"id": made["id"], "object": "conversation.deleted", "deleted": True})
    refused("a conversation that is deleted", 404, "invalid_request_error", "conversation_not_found", "conversation_id", "GET", path)


def items():
    """One of each kind, each with as little as may be."""
    said = [
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
        # As clients write down what they got, with nulls for what was not there.
        {"type": "message", "id": "msg_1", "role": "assistant", "status": None, "phase": None, "content": [{"type": "output_text", "text": "t", "annotations": None, "logprobs": None}]},
        {"type": "function_call", "id": None, "status": None, "call_id": "d", "name": "weather", "arguments": "{}"},
        {"type": "reasoning", "id": "rs_1", "status": None, "summary": [], "content": None, "encrypted_content": None},
    ]
    made = create("each kind of item", input=said)
    listed("input items", ResponseItemList, f"/responses/{made['id']}/input_items", len(said))
    return said


def conversations():
    said = items()
    custom = [
        {"type": "custom_tool_call", "call_id": "e", "name": "shell", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "e", "output": "fine"},
    ]
    made = ask("a conversation of other tools", Conversation, "POST", "/conversations", {"items": custom})
    listed("items of other tools", ConversationItemList, f"/conversations/{made['id']}/items", 2)
    empty = ask("an empty conversation", Conversation, "POST", "/conversations", {})
    check("no items", send("GET", f"/conversations/{empty['id']}/items"), (200, {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}))
    made = ask("a conversation", Conversation, "POST", "/conversations", {"metadata": {"k": "é"}, "items": said[:1]})
    path = f"/conversations/{made['id']}"
    check("a conversation, again", ask("retrieved", Conversation, "GET", path), made)
    ask("updated", Conversation, "POST", path, {"metadata": {"k": "v"}})
    added = ask("items added", ConversationItemList, "POST", f"{path}/items", {"items": said[1:]})
    ids = listed("items", ConversationItemList, f"{path}/items", len(said))
    check("items: added in order", [item["id"] for item in added["data"]], ids[1:])
    for item in ids:
        ask("an item", ConversationItem, "GET", f"{path}/items/{item}")
    answer = create("in a conversation", conversation=made["id"], input="And now?")
    check("in a conversation: says so", answer["conversation"], {"id": made["id"]})
    create("in a conversation, as an object", conversation={"id": made["id"]}, input=[{"role": "user", "content": "And?"}])
    stream("in a conversation, streamed", conversation=made["id"], input="Streamed?")
    create("calls in a conversation", conversation=made["id"], input="Weather?", model="only-tools", tools=[WEATHER])
    short = create("cut in a conversation", status="incomplete", conversation=made["id"], input="Cut?", max_output_tokens=3)
    ids = listed("items after turns", ConversationItemList, f"{path}/items", len(said) + 11)
    check("a turn's items", [item["id"] for item in answer["output"]], ids[len(said) + 1 : len(said) + 2])
    for item in answer["output"] + short["output"]:
        check("an item of a turn", ask("an item of a turn", ConversationItem, "GET", f"{path}/items/{item['id']}"), item)


def errors():
    invalid = "invalid_request_error"
    none, conversation = f"resp_{'0' * 64}", f"conv_{'0' * 32}"
    for path, method in ((f"/responses/{none}", "GET"), (f"/responses/{none}", "DELETE"), (f"/responses/{none}/cancel", "POST"), (f"/responses/{none}/input_items", "GET")):
        refused(f"{method} {path}", 404, invalid, "response_not_found", "response_id", method, path)
    for path, method in ((f"/conversations/{conversation}", "GET"), (f"/conversations/{conversation}/items", "GET"), (f"/conversations/{conversation}/items/msg_1", "GET")):
        refused(f"{method} {path}", 404, invalid, "conversation_not_found", "conversation_id", method, path)
    made = send("POST", "/conversations", {})[1]
    refused("no such item", 404, invalid, "item_not_found", "item_id", "GET", f"/conversations/{made['id']}/items/msg_1")
    for case, status, code, param, fields in (
        ("no such model", 404, "model_not_found", "model", {"model": "nope"}),
        ("no such previous one", 400, "previous_response_not_found", "previous_response_id", {"previous_response_id": none}),
        ("no such conversation", 404, "conversation_not_found", "conversation_id", {"conversation": conversation}),
        ("an output of no call", 400, "invalid_value", "input", {"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}),
        ("an item of no type", 400, "invalid_value", "input[0].type", {"input": [{"type": "nope"}]}),
        ("an item of no role", 400, "invalid_value", "input[0].role", {"input": [{"role": "nope", "content": "?"}]}),
        ("metadata of numbers", 400, "invalid_type", "metadata", {"metadata": {"k": 1}}),
        ("truncation", 400, "invalid_value", "truncation", {"truncation": "nope"}),
    ):
        refused(case, status, invalid, code, param, "POST", "/responses", {"model": "plain", "input": "?", **fields})
    done = send("POST", "/responses", {"model": "plain", "input": "?"})[1]["id"]
    refused("cancelled in the foreground", 400, invalid, "invalid_value", "response_id", "POST", f"/responses/{done}/cancel")
    refused("taken up without a stream", 400, invalid, "invalid_value", "starting_after", "GET", f"/responses/{done}?starting_after=1")
    refused("a cursor that is unknown", 400, invalid, "invalid_value", "after", "GET", f"/responses/{done}/input_items?after=msg_1")


for part in (whole_ones, cut, broken, streams, resumed, background, tools, servers, conversations, deletions, errors):
    attempt(part.__name__, part)

end()
