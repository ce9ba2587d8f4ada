"""Compares answers with the types of a client, which itself accepts any answer. Sends no requests.

An answer must have each field without a default, no field that the type lacks, and exactly the declared types, literals
and values of `type`.
"""

import types
import typing

import pydantic

# Fields that a class lacks although another source has them: https://www.openresponses.org, OpenAI's own OpenAPI
# document, or the class of the same item in another list.
UNDECLARED = {
    "Response": {"store", "presence_penalty", "frequency_penalty"},
    "ResponseFunctionCallArgumentsDoneEvent": {"name"},
    "ResponseCustomToolCall": {"status"},
    "ResponseCustomToolCallOutput": {"status"},
    "ResponseWsErrorError": {"attempts"},
}

# The prefix of the node's own fields.
OWN_PREFIX = "x-outlive"


def type_errors(value, kind, at="$"):
    """The errors of `value` as a `kind`: lines that begin with the place."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return type_errors(value, arguments[0], at)
    if kind in (object, typing.Any):
        return []
    if kind is None or kind is type(None):
        return [] if value is None else [f"{at}: {value!r:.80} is not null"]
    if origin in (typing.Union, types.UnionType):
        return best_match(value, arguments, at)
    if origin is typing.Literal:
        # In Python `True == 1`, so the types are compared, too.
        known = any(value == word and type(value) is type(word) for word in arguments)
        return [] if known else [f"{at}: {value!r:.80} is none of {arguments}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{at}: {value!r:.80} is no array"]
        return [line for i, item in enumerate(value) for line in type_errors(item, arguments[0], f"{at}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{at}: {value!r:.80} is no object"]
        return [line for name, item in value.items() for line in type_errors(item, arguments[1], f"{at}.{name}")]
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return model_errors(value, kind, at)
    if kind in (str, bool, int, float):
        fits = type(value) is kind or (kind is float and type(value) is int)
        return [] if fits else [f"{at}: {value!r:.80} is no {kind.__name__}"]
    raise TypeError(f"{at}: strict.py does not support {kind!r}")


def model_errors(value, model, at):
    """The errors of `value` as a model: missing and unknown fields, and the errors of its fields."""
    if not isinstance(value, dict):
        return [f"{at}: {value!r:.80} is no object"]
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    errors = [f"{at}: {name} is missing in {model.__name__}" for name, field in known.items() if field.is_required() and name not in value]
    for name, item in value.items():
        if name in known:
            errors += type_errors(item, known[name].annotation, f"{at}.{name}")
        elif name not in UNDECLARED.get(model.__name__, ()) and not name.startswith(OWN_PREFIX):
            errors.append(f"{at}: {model.__name__} has no {name}")
    return errors


def best_match(value, kinds, at):
    """The shortest list of errors of the `kinds`; only of those with the value's `type`, if it has one."""
    named = [kind for kind in kinds if type_of(kind)]
    if named and isinstance(value, dict) and "type" in value:
        same = [kind for kind in named if value["type"] in type_of(kind)]
        if not same:
            return [f"{at}: the type {value['type']!r} is unknown"]
        kinds = same
    return min((type_errors(value, kind, at) for kind in kinds), key=len)


def type_of(kind):
    """The literals of a model's field `type`; empty if it has no such field."""
    if typing.get_origin(kind) is typing.Annotated:
        return type_of(typing.get_args(kind)[0])
    if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        return ()
    field = kind.model_fields.get("type")
    return typing.get_args(field.annotation) if field and typing.get_origin(field.annotation) is typing.Literal else ()


def order_errors(events, after=-1):
    """The errors in the order of a stream's events: sequence numbers, items, deltas, and items of the last event."""
    errors, items, texts, parts = [], {}, {}, set()
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(after + 1, after + 1 + len(events))):
        errors.append(f"the sequence numbers are {numbers}")
    kinds = [event["type"] for event in events]
    if after < 0 and kinds[:1] != ["response.created"]:
        errors.append(f"the first event is {kinds[:1]}")
    if kinds.count("response.created") > 1 or "response.in_progress" in kinds[3:]:
        errors.append(f"there is a second beginning: {kinds}")
    ends = [i for i, kind in enumerate(kinds) if kind in ("response.completed", "response.incomplete", "response.failed", "error")]
    if ends != [len(events) - 1]:
        errors.append(f"there are terminal events at {ends} of {len(events)} events")
    # Follows each item from its first event to its last, with the texts of its parts.
    for event in events:
        kind, index, place = event["type"], event.get("output_index"), (event.get("output_index"), event.get("content_index"))
        if kind == "response.output_item.added":
            if index in items:
                errors.append(f"item {index} is added twice")
            items[index] = event["item"]
        elif kind == "response.output_item.done":
            if items.setdefault(index, event["item"] if after >= 0 else {}).get("id") != event["item"]["id"] or index in [of for of, _ in parts]:
                errors.append(f"item {index} is done before it is added, or has open parts")
            items[index] = event["item"] | {"done": True}
        elif index is not None:
            # A resumed stream may begin within an item.
            item = items.setdefault(index, {"id": event["item_id"]} if after >= 0 else {})
            if event["item_id"] != item.get("id") or item.get("done"):
                errors.append(f"{kind} of an item that is not open: {event['item_id']}")
            if kind == "response.content_part.added":
                parts.add(place)
            elif kind == "response.content_part.done":
                parts.discard(place)
            elif kind.endswith(".delta"):
                texts[place] = texts.get(place, "") + event["delta"]
            elif kind.endswith(".done"):
                full = next(event[name] for name in ("text", "refusal", "arguments") if name in event)
                if after < 0 and texts.get(place, "") != full and full != "{}":
                    errors.append(f"{kind} has {full!r}, and the deltas {texts.get(place)!r}")
    if after < 0 and ends and "response" in events[-1]:
        done = [item for _, item in sorted(items.items())]
        if [item | {"done": True} for item in events[-1]["response"]["output"]] != done:
            errors.append(f"the last event has {events[-1]['response']['output']}, and the done items are {done}")
    return errors
