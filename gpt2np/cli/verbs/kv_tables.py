"""What `gpt2np kv` prints: facts as lines of at most 80 columns."""

import textwrap
from typing import Any

from gpt2np.tables import fitted, number, quoted, screen_width


def about(facts: dict[str, Any]) -> str:
    """A KV file in a few lines: `metadata`, text and prediction of document 003, `file` and `bytes`."""
    sizes, prediction = facts["metadata"], facts["predicted_next_token"]
    text = facts["input_text"] if facts["input_text"] is not None else "".join(facts["input_tokens"])
    rows = [
        ["file", f"{facts['file']}, {facts['bytes']:,} bytes"],
        ["model", facts["model"]],
        ["text", quoted(text, screen_width() - 20)],
        ["tokens", str(sizes["sequence_length"])],
        ["size", f"{sizes['n_layers']} layers, {sizes['n_heads']} heads, d_head {sizes['d_head']}"],
    ]
    if "keys" in sizes:
        rows.append(["keys", f"of {sizes['n_kv_heads']} heads, {sizes['keys']}"])
    if prediction is None:
        return fitted([*rows, ["next token", "not in this file"]], "<<", indent=0)
    for i, candidate in enumerate(prediction["top_k_candidates"]):
        shown = fitted([[f"{candidate['probability']:7.2%}", quoted(candidate["token"])]], "><", indent=0)
        rows.append(["" if i else "next token", shown])
    return fitted(rows, "<<", indent=0)


def answers(facts: dict[str, list[dict[str, Any]]]) -> str:
    """What `kv query` found, one answer after another with an empty line between them."""
    parts = {
        "info": about,
        "coordinate": _coordinate,
        "token_search": _token_search,
        "layer_summary": _layer_summary,
        "search_norm": _search_norm,
    }
    return "\n\n".join(part(told) for name, part in parts.items() for told in facts.get(name, ()))


def files(entries: list[dict[str, Any]]) -> str:
    """The files of a dataset, one a line."""
    rows = [["file", "tokens", "text", "next", "bytes"]]
    for entry in entries:
        text, follows = quoted(entry["input_text"], 30), quoted(entry["predicted_next_token"], 12)
        rows.append([entry["file"], str(entry["tokens"]), text, follows, f"{entry['bytes']:,}"])
    return fitted(rows, "<><<>", indent=0)


def _coordinate(found: dict[str, Any]) -> str:
    at = f"layer {found['layer']}, head {found['head']}, token {found['token_idx']}"
    lines = [f"{at} {quoted(found['token'])}"]
    for part in ("key", "value"):
        numbers = " ".join(f"{value:.6g}" for value in found[part])
        lines.append(f"{part}, norm {number(found[f'{part}_norm'])}")
        lines.append(textwrap.fill(numbers, screen_width(), initial_indent="  ", subsequent_indent="  "))
    return "\n".join(lines)


def _token_search(found: dict[str, Any]) -> str:
    rows = []
    for place in found["found"]:
        first, last = place["token_idx"][0], place["token_idx"][-1]
        shown = [quoted(token) for token in place["tokens"]]
        if len(shown) > 3:
            shown[1:-1] = ["..."]
        rows.append([str(first) if first == last else f"{first}-{last}", " ".join(shown)])
    if not rows:
        return f"{quoted(found['text'], 60)}: 0 found"
    heading = "tokens that contain it (case-insensitive), or that spell it together"
    return f"{quoted(found['text'], 60)}: {len(rows)} found\n{heading}\n{fitted(rows, '><')}"


def _layer_summary(found: dict[str, Any]) -> str:
    names = [f"{part}_norm_{of}" for part in ("key", "value") for of in ("mean", "min", "max")]
    rows = [["head", "key: mean", "min", "max", "value: mean", "min", "max"]]
    rows += [[str(head["head"]), *(number(head[name]) for name in names)] for head in found["heads"]]
    return f"layer {found['layer']}, norms over its tokens\n{fitted(rows, '>>>>>>>')}"


def _search_norm(found: dict[str, Any]) -> str:
    low, high, part = found["range"]
    text = f"{found['found']:,} of {found['of']:,} coordinates have a {part} norm of {low:g} to {high:g}"
    if not found["found"]:
        return f"{text}\n  they go from {number(found['smallest'])} to {number(found['largest'])}"
    rows = [["layer", "head", "token", "text", "key norm", "value norm"]]
    for row in found["rows"]:
        at = [str(row[axis]) for axis in ("layer", "head", "token_idx")]
        rows.append([*at, quoted(row["token"]), number(row["key_norm"]), number(row["value_norm"])])
    if len(rows) > 1:
        text += "\n" + fitted(rows, ">>><>>")
    more = found["found"] - len(found["rows"])
    return text + (f"\n  and {more:,} more: --json or --export-csv FILE has all" if more else "")
