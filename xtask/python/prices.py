"""Writes the table of models: what they cost and how much they take.

Usage: prices.py LITELLM.json GENAI_DIRECTORY LITELLM_VERSION OUT.rs

The prices come from LiteLLM's table. The script compares them with pydantic's genai-prices and prints the differences,
but resolves none. All numbers are read as decimals, never as binary fractions.
"""

import json
import re
import sys
from decimal import Decimal
from pathlib import Path

VENDORS = {"anthropic": "Anthropic", "deepseek": "DeepSeek", "openai": "OpenAi"}
MODES = {"chat", "responses", "embedding"}
# Other products under the same names: a fine-tuned model costs what its base model does, audio is billed by the second.
OTHERS = re.compile(r"^ft:|audio|realtime|computer-use|/container|search")
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
RATES = [
    ("input_cost_per_token", "input_mtok"),
    ("cache_read_input_token_cost", "cache_read_mtok"),
    ("cache_creation_input_token_cost", "cache_write_mtok"),
    ("cache_creation_input_token_cost_above_1hr", None),
    ("output_cost_per_token", "output_mtok"),
]
# Fewer models than this mean that the source has changed its format.
MIN_MODELS = 50


def rate(dollars):
    """Nano-dollars per thousand tokens: a whole number for every price that vendors charge."""
    nano = Decimal(dollars) * 10**12
    if nano != nano.to_integral_value() or not 0 <= nano < 2**32:
        raise SystemExit(f"{dollars} dollars for a token is not a whole number of nano-dollars for a thousand")
    return int(nano)


def rates(row, suffix=""):
    """The five rates. A cache rate without a price is the input rate; the hourly one is the other cache write rate."""
    values = [row.get(key + suffix) for key, _ in RATES]
    if values[0] is None or values[4] is None and row["mode"] != "embedding":
        return None
    read, write, hour = (value if value else None for value in values[1:4])
    read = values[0] if read is None else read
    write = values[0] if write is None else write
    hour = write if hour is None else hour
    return [rate(value or 0) for value in (values[0], read, write, hour, values[4])]


def tier(row):
    """The rates of requests with more input tokens than a bound."""
    bounds = sorted(int(m[1]) for key in row if (m := re.fullmatch(r"input_cost_per_token_above_(\d+)k_tokens", key)))
    if not bounds:
        return "None"
    above = bounds[-1]
    values = rates(row, f"_above_{above}k_tokens")
    return f"Some(({above * 1000}, {values}))" if values else "None"


def off_peak(row):
    """The rates of the hours in which the vendor charges less."""
    cheap = row.get("off_peak_pricing")
    return f"Some({rates({**cheap, 'mode': 'chat'})})" if cheap else "None"


def thinks(vendor, row):
    """Whether a request that does not mention thinking may be thought about."""
    if vendor == "anthropic":
        # Older models think only if the request says so.
        return row.get("supports_adaptive_thinking")
    return row.get("supports_reasoning") and row.get("default_reasoning_effort") != "none"


def models(table):
    """Rows by vendor and name. A dated name is left out if its undated name has the same row."""
    rows = {}
    for name, row in table.items():
        vendor = row.get("litellm_provider")
        if vendor not in VENDORS or row.get("mode") not in MODES or OTHERS.search(name):
            continue
        if (values := rates(row)) is None:
            continue
        truth = lambda value: "true" if value else "false"
        text = (
            f"{values}, {tier(row)}, {off_peak(row)}, {row.get('max_input_tokens') or 0}, "
            f"{row.get('max_output_tokens') or 0}, {truth(row.get('supports_function_calling'))}, "
            f"{truth(row.get('supports_vision'))}, {truth(thinks(vendor, row))}"
        )
        rows[VENDORS[vendor], name.removeprefix("deepseek/")] = text
    return {
        (vendor, name): text
        for (vendor, name), text in rows.items()
        if DATED.sub("", name) == name or rows.get((vendor, DATED.sub("", name))) != text
    }


def differences(table, directory):
    """A line for each price that differs between the two sources, then the number of compared prices."""
    sys.path.insert(0, str(directory))
    from genai_prices.data import providers

    prices = {}
    for provider in providers:
        for model in provider.models if provider.id in VENDORS else []:
            prices[provider.id, model.id] = model.prices
    compared = 0
    for name, row in sorted(table.items()):
        vendor = row.get("litellm_provider")
        other = prices.get((vendor, name))
        if other is None or row.get("mode") not in MODES or not hasattr(other, "input_mtok"):
            continue
        for ours, theirs in RATES:
            a, b = row.get(ours), getattr(other, theirs, None) if theirs else None
            if a is None or not isinstance(b, Decimal):
                continue
            compared += 1
            if Decimal(a) * 10**6 != b:
                yield f"differs: {vendor}/{name} {theirs}: {(Decimal(a) * 10**6).normalize():f} here, {b} there"
    yield f"{compared} prices compared"


def main(source, directory, version, out):
    table = json.loads(Path(source).read_text(), parse_float=Decimal)
    rows = models(table)
    old = Path(out).read_text().count("\n    PriceRow(") if Path(out).exists() else 0
    if len(rows) < MIN_MODELS or len(rows) * 2 < old:
        raise SystemExit(f"only {len(rows)} models after {old}: the source has changed its format")
    lines = [f'    PriceRow(PriceList::{vendor}, "{name}", {text}),' for (vendor, name), text in sorted(rows.items())]
    Path(out).write_text(
        "// Written by `cargo xtask prices`; do not edit.\n"
        f"// Source: model_prices_and_context_window.json of LiteLLM {version} (MIT).\n"
        "// Nano-dollars for a thousand tokens: input, cache read, cache write, cache write for an hour, output;\n"
        "// the same above a bound of input tokens; the same off peak; most input, most output; tools, images,\n"
        "// thinks.\n\n"
        "use super::{PriceList, PriceRow};\n\n"
        "#[rustfmt::skip]\n"
        f"pub(super) const ROWS: [PriceRow; {len(rows)}] = [\n" + "\n".join(lines) + "\n];\n"
    )
    print(f"{len(rows)} models, {old} before")
    for line in differences(table, directory):
        print(line)


main(*sys.argv[1:])
