"""Says what is wrong with an answer, measured by the types of a client: where that would construct anything, this is strict.

An answer must have every field that has no default, no field that the type does not know, and exactly the types, words and
`type`s that are declared.
"""

import types
import typing

import pydantic

# Fields that a class lacks, though another description of the same thing has them: https://www.openresponses.org,
# OpenAI's own OpenAPI document, or the class of such an item in another list.
MORE = {
    "Response": {"store", "presence_penalty", "frequency_penalty"},
    "ResponseFunctionCallArgumentsDoneEvent": {"name"},
    "ResponseCustomToolCall": {"status"},
    "ResponseCustomToolCallOutput": {"status"},
    "ResponseWsErrorError": {"attempts"},
}

# What a node says beyond OpenAI's API.
OWN = "x-outlive"


def mistakes(value, kind, at="$"):
    """What is wrong with `value` as a `kind`, as lines that begin with the place."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return mistakes(value, arguments[0], at)
    if kind in (object, typing.Any):
        return []
    if kind is None or kind is type(None):
        return [] if value is None else [f"{at}: {value!r:.80} is not null"]
    if origin in (typing.Union, types.UnionType):
        return best(value, arguments, at)
    if origin is typing.Literal:
        # True is no 1.
        known = any(value == word and type(value) is type(word) for word in arguments)
        return [] if known else [f"{at}: {value!r:.80} is none of {arguments}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{at}: {value!r:.80} is no array"]
        return [line for i, item in enumerate(value) for line in mistakes(item, arguments[0], f"{at}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{at}: {value!r:.80} is no object"]
        return [line for name, item in value.items() for line in mistakes(item, arguments[1], f"{at}.{name}")]
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return fields(value, kind, at)
    if kind in (str, bool, int, float):
        fits = type(value) is kind or (kind is float and type(value) is int)
        return [] if fits else [f"{at}: {value!r:.80} is no {kind.__name__}"]
    raise TypeError(f"{at}: {kind!r} is of a sort that strict.py does not know")


def fields(value, model, at):
    if not isinstance(value, dict):
        return [f"{at}: {value!r:.80} is no object"]
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    wrong = [f"{at}: {name} is missing in {model.__name__}" for name, field in known.items() if field.is_required() and name not in value]
    for name, item in value.items():
        if name in known:
            wrong += mistakes(item, known[name].annotation, f"{at}.{name}")
        elif name not in MORE.get(model.__name__, ()) and not name.startswith(OWN):
            wrong.append(f"{at}: {model.__name__} knows no {name}")
    return wrong


def best(value, kinds, at):
    """The shortest list of mistakes that one of the `kinds` gives: of those that have the value's `type`, if it has one."""
    named = [kind for kind in kinds if type_of(kind)]
    if named and isinstance(value, dict) and "type" in value:
        same = [kind for kind in named if value["type"] in type_of(kind)]
        if not same:
            return [f"{at}: the type {value['type']!r} is unknown"]
        kinds = same
    return min((mistakes(value, kind, at) for kind in kinds), key=len)


def type_of(kind):
    """The words that a model's field `type` may be; none if it has no such field."""
    if typing.get_origin(kind) is typing.Annotated:
        return type_of(typing.get_args(kind)[0])
    if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        return ()
    field = kind.model_fields.get("type")
    return typing.get_args(field.annotation) if field and typing.get_origin(field.annotation) is typing.Literal else ()


def disorder(events, after=-1):
    """What is wrong with the order of a stream's events: their numbers, their items, and what their last one repeats."""
    wrong, items, texts, parts = [], {}, {}, set()
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(after + 1, after + 1 + len(events))):
        wrong.append(f"the numbers are {numbers}")
    kinds = [event["type"] for event in events]
    if after < 0 and kinds[:1] != ["response.created"]:
        wrong.append(f"it begins with {kinds[:1]}")
    if kinds.count("response.created") > 1 or "response.in_progress" in kinds[3:]:
        wrong.append(f"it begins twice: {kinds}")
    ends = [i for i, kind in enumerate(kinds) if kind in ("response.completed", "response.incomplete", "response.failed", "error")]
    if ends != [len(events) - 1]:
        wrong.append(f"it ends at {ends} of {len(events)}")
    for event in events:
        kind, index, place = event["type"], event.get("output_index"), (event.get("output_index"), event.get("content_index"))
        if kind == "response.output_item.added":
            if index in items:
                wrong.append(f"item {index} is added twice")
            items[index] = event["item"]
        elif kind == "response.output_item.done":
            if items.setdefault(index, event["item"] if after >= 0 else {}).get("id") != event["item"]["id"] or index in [of for of, _ in parts]:
                wrong.append(f"item {index} is done before it was begun, or has open parts")
            items[index] = event["item"] | {"done": True}
        elif index is not None:
            # A stream that is taken up again may begin within an item.
            item = items.setdefault(index, {"id": event["item_id"]} if after >= 0 else {})
            if event["item_id"] != item.get("id") or item.get("done"):
                wrong.append(f"{kind} of an item that is not open: {event['item_id']}")
            if kind == "response.content_part.added":
                parts.add(place)
            elif kind == "response.content_part.done":
                parts.discard(place)
            elif kind.endswith(".delta"):
                texts[place] = texts.get(place, "") + event["delta"]
            elif kind.endswith(".done"):
                whole = next(event[name] for name in ("text", "refusal", "arguments") if name in event)
                if after < 0 and texts.get(place, "") != whole and whole != "{}":
                    wrong.append(f"{kind} says {whole!r}, the deltas {texts.get(place)!r}")
    if after < 0 and ends and "response" in events[-1]:
        done = [item for _, item in sorted(items.items())]
        if [item | {"done": True} for item in events[-1]["response"]["output"]] != done:
            wrong.append(f"the last event repeats {events[-1]['response']['output']}, done were {done}")
    return wrong
