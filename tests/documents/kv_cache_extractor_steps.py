"""Document 003, the KV cache extractor: its commands and snippets in order, and what must come of each."""

import csv
import functools
import json
import os
import re
from pathlib import Path

import numpy as np
from support.document_reader import Step, replaced

from gpt2np.kv.reading import KEYS, read_kv

HEADINGS = """GPT-2 KV Cache Extractor | Features | Project Structure | Installation | Quick Start | Basic Usage |
Command Line Usage | Command Line Tools | KV Cache Query Tool | Dataset Generator | Output Format |
Coordinate System | Examples | Example 1: Basic Extraction | Example 2: Coordinate Query |
Example 3: Batch Processing | Model Variants | Performance Notes | Documentation | License"""
HEADINGS = [" ".join(heading.split()) for heading in HEADINGS.split("|")]
FILES = """src/gpt2_kvcache.py tools/kvcache_query.py tools/dataset_generator.py examples/basic_usage.py
data/sample_prompts.txt data/kv_cache_output.json docs/usage_guide.md requirements.txt scripts/export_gpt2_full.py
kvcache_query.py dataset_generator.py gpt2_kvcache.py""".split()

FOX = "The quick brown fox jumps over the lazy dog"
LAYERS, HEADS = 12, 12


# -- what Hugging Face computes -------------------------------------------------------------------------


@functools.cache
def loaded(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(
        name, dtype="float32"
    ).eval()


@functools.cache
def theirs_of(text, name="gpt2"):
    return Theirs(text, name)


class Theirs:
    """Keys and values [layer, head, token, d_head], tokens, and the likeliest next ones, of a text by HF."""

    def __init__(self, text, name):
        import torch

        tokenizer, model = loaded(name)
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model(ids, use_cache=True)
        layers = out.past_key_values.layers
        self.keys = np.stack([layer.keys[0].numpy() for layer in layers])
        self.values = np.stack([layer.values[0].numpy() for layer in layers])
        self.ids = ids[0].tolist()
        top = out.logits[0, -1].softmax(-1).topk(5)
        self.top = [
            (tokenizer.decode([i]), p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def norms(self, part):
        return np.linalg.norm(getattr(self, f"{part}s").astype(np.float64), axis=-1)


def agrees(result, text, name="gpt2"):
    """The document's dict, or a file of it, against HF: tokens, keys, values, prediction."""
    theirs = theirs_of(text, name)
    assert result["model"] == name
    assert result["input_text"] == text
    assert result["input_token_ids"] == theirs.ids
    for i, layer in enumerate(theirs.keys):
        for j, head in enumerate(layer):
            tokens = result["kv_cache"][f"layer_{i}"][f"head_{j}"]["tokens"]
            assert [token["token_idx"] for token in tokens] == list(range(len(theirs.ids)))
            np.testing.assert_allclose([token["key"] for token in tokens], head, atol=1e-4)
            np.testing.assert_allclose([token["value"] for token in tokens], theirs.values[i, j], atol=1e-4)
    predicted = result["predicted_next_token"]
    assert predicted["token"] == predicted["top_k_candidates"][0]["token"] == theirs.top[0][0]
    for candidate, (token, probability) in zip(predicted["top_k_candidates"], theirs.top, strict=True):
        assert candidate["token"] == token or "\ufffd" in token  # HF has no other word for half a character
        assert abs(candidate["probability"] - probability) < 1e-4
    n_layers, n_heads, length, d_head = theirs.keys.shape
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "d_head": d_head, "sequence_length": length}
    assert result["metadata"] == sizes


def file_agrees(path, text):
    agrees(json.loads(Path(path).read_text("utf-8")), text)


# -- the checks -----------------------------------------------------------------------------------------


def quick_start(seen):
    agrees(seen.names["result"], FOX)
    file_agrees("output.json", FOX)


def extracted(seen):
    file_agrees("data/kv_cache_output.json", FOX)
    assert "the first of" in seen.err


def listed(folder):
    lines = Path(folder, "index.jsonl").read_text("utf-8").splitlines()[1:]
    return {row["file"]: row["input_text"] for row in map(json.loads, lines)}


def samples_written(seen):
    found = listed("data/datasets")
    assert len(found) > 5
    assert found["kv_00000.json"] == FOX
    assert "there is no data/sample_prompts.txt" in seen.err
    for name, text in found.items():
        if name in ("kv_00000.json", f"kv_{len(found) - 1:05}.json"):
            file_agrees(f"data/datasets/{name}", text)


def samples_kept(seen):
    assert "wrote 0 of " in seen.err
    samples_written(seen)


def prompts_added(seen):
    found = listed("data/datasets")
    assert list(found.values()).count("Hello world") == 1  # it is one of the samples
    names = {text: name for name, text in found.items()}
    hello, learning = names["Hello world"], names["Machine learning"]
    assert (hello, learning) == ("kv_00001.json", f"kv_{len(found) - 1:05}.json")
    file_agrees(f"data/datasets/{hello}", "Hello world")
    file_agrees(f"data/datasets/{learning}", "Machine learning")


def random_written(folder, n):
    def check(seen):
        found = listed(folder)
        assert list(found) == [f"kv_{i:05}.json" for i in range(n)]
        assert {*os.listdir(folder)} == {"index.jsonl", *found}
        assert len({*found.values()}) > n // 2
        file_agrees(f"{folder}/kv_{n - 1:05}.json", found[f"kv_{n - 1:05}.json"])

    return check


def info(seen):
    assert re.search(rf"^text +\|{FOX}\|$", seen.out, re.MULTILINE)
    assert re.search(r"^size +12 layers, 12 heads, d_head \d+$", seen.out, re.MULTILINE)
    assert re.search(r"^model +gpt2$", seen.out, re.MULTILINE)
    token, probability = theirs_of(FOX).top[0]
    assert f"{probability:.2%} |{token}|" in " ".join(seen.out.split()).replace("| ", "|")


def coordinate(seen):
    theirs = theirs_of(FOX)
    lines = seen.out.split("\n")
    assert lines[0] == "layer 0, head 0, token 0 |The|"
    numbers = [float(n) for line in lines[1:] if line.startswith("  ") for n in line.split()]
    expected = np.concatenate([theirs.keys[0, 0, 0], theirs.values[0, 0, 0]])
    np.testing.assert_allclose(numbers, expected, atol=1e-4)


def fox_found(seen):
    assert "|fox|: 1 found" in seen.out
    first, last = map(int, re.search(r"^ +(\d+)-(\d+) ", seen.out, re.MULTILINE).groups())
    assert "fox" in loaded("gpt2")[0].decode(theirs_of(FOX).ids[first : last + 1])


def summary(seen):
    rows = [line.split() for line in seen.out.splitlines()[2:]]
    assert [row[0] for row in rows] == [str(head) for head in range(HEADS)]
    norms = [theirs_of(FOX).norms(part)[0] for part in ("key", "value")]
    expected = np.stack([f(n, axis=-1) for n in norms for f in (np.mean, np.min, np.max)], axis=1)
    np.testing.assert_allclose(np.array(rows, float)[:, 1:], expected, rtol=2e-3)


def norms_found(seen):
    norms = theirs_of(FOX).norms("key")
    within = np.argwhere((norms >= 0.5) & (norms <= 1.0)).tolist()
    with open("results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [[int(row[x]) for x in ("layer", "head", "token_idx")] for row in rows] == within
    assert within
    assert f"{len(within)} of {norms.size:,} coordinates have a key norm of 0.5 to 1" in seen.out


def example_1(seen):
    assert seen.out == f"Predicted next token: {theirs_of('Hello world').top[0][0]}\n"
    agrees(seen.names["result"], "Hello world")


def example_2(seen):
    theirs, lines = theirs_of("Hello world"), seen.out.splitlines()
    for line, name, array in zip(lines, ("Key", "Value"), (theirs.keys, theirs.values), strict=True):
        assert line.startswith(f"{name} vector: [")
        np.testing.assert_allclose(json.loads(line.partition(": ")[2]), array[0, 0, 0, :5], atol=1e-4)


def example_3(seen):
    random_written("data/batch", 10)(seen)
    for path in sorted(Path("data/batch").glob("*.json")):
        assert f"{path}, {path.stat().st_size:,} bytes" in seen.out
        assert read_kv(path).n_layer == LAYERS


def other_size(seen):
    result = seen.names["extractor"].extract_kv_cache("Hello world")
    agrees(result, "Hello world", "gpt2-medium")
    assert (result["metadata"]["n_layers"], result["metadata"]["n_heads"]) == (24, 16)


# -- the document, from top to bottom -------------------------------------------------------------------

REPLACED = {
    "pip install -r requirements.txt": "pip install .",
    "python3 src/gpt2_kvcache.py": "gpt2np kv extract",
    "python3 tools/kvcache_query.py": "gpt2np kv query",
    "python3 tools/dataset_generator.py": "gpt2np kv dataset",
    "from src.gpt2_kvcache import": "from gpt2np import",
}


def step(heading, theirs, check, note, language="console"):
    """A step of which nothing but the names of programs are replaced."""
    return Step(heading, theirs, replaced(theirs, REPLACED), check, note, language)


STEPS = [
    step(
        "Installation",
        "pip install -r requirements.txt",
        None,
        "neither torch nor transformers is needed",
    ),
    step(
        "Basic Usage",
        """
from src.gpt2_kvcache import GPT2KVCacheExtractor

# Create extractor
extractor = GPT2KVCacheExtractor(model_name="gpt2")

# Extract KV cache
result = extractor.extract_kv_cache("The quick brown fox jumps over the lazy dog")

# Save to JSON
extractor.save_to_json(result, "output.json")
""",
        quick_start,
        "the rest as it stands; the dict has the document's keys",
        "python",
    ),
    step(
        "Command Line Usage",
        "python3 src/gpt2_kvcache.py",
        extracted,
        "writes `data/kv_cache_output.json`, of the first sample prompt; with a TEXT of that",
    ),
    step(
        "Command Line Usage",
        "python3 tools/dataset_generator.py --text-file data/sample_prompts.txt --output-dir data/datasets/",
        samples_written,
        "a `sample_prompts.txt` that is not there is the one that comes with the package",
    ),
    step(
        "Command Line Usage",
        "python3 tools/kvcache_query.py data/kv_cache_output.json --coordinate 0 0 0",
        coordinate,
        "key and value, with their norms",
    ),
    step(
        "KV Cache Query Tool",
        "python3 tools/kvcache_query.py data/kv_cache_output.json --info",
        info,
        "model, text, sizes, prediction",
    ),
    step(
        "KV Cache Query Tool",
        "python3 tools/kvcache_query.py data/kv_cache_output.json --coordinate 0 0 0",
        coordinate,
        "layer, head, token, each from 0",
    ),
    step(
        "KV Cache Query Tool",
        'python3 tools/kvcache_query.py data/kv_cache_output.json --token-search "fox"',
        fox_found,
        "tokens that contain it, or spell it together, whatever the case; also of characters that are several tokens",
    ),
    step(
        "KV Cache Query Tool",
        "python3 tools/kvcache_query.py data/kv_cache_output.json --layer-summary 0",
        summary,
        "mean, smallest and largest norm of each head",
    ),
    step(
        "KV Cache Query Tool",
        "python3 tools/kvcache_query.py data/kv_cache_output.json --search-norm 0.5 1.0 key --export-csv results.csv",
        norms_found,
        "if none is in the range, it says from where to where the norms go",
    ),
    step(
        "Dataset Generator",
        "python3 tools/dataset_generator.py --text-file data/sample_prompts.txt --output-dir data/datasets/",
        samples_kept,
        "for the second time: prompts that a folder has already are kept as they are",
    ),
    step(
        "Dataset Generator",
        'python3 tools/dataset_generator.py --prompts "Hello world" "Machine learning" --output-dir data/datasets/',
        prompts_added,
        "prompts that the folder does not have yet get the next numbers",
    ),
    step(
        "Dataset Generator",
        "python3 tools/dataset_generator.py --random 100 --output-dir data/random/",
        random_written("data/random", 100),
        "texts that the model writes; `--random-tokens`: any tokens",
    ),
    step(
        "Example 1: Basic Extraction",
        """
from src.gpt2_kvcache import GPT2KVCacheExtractor

extractor = GPT2KVCacheExtractor()
result = extractor.extract_kv_cache("Hello world")
print(f"Predicted next token: {result['predicted_next_token']['token']}")
""",
        example_1,
        "without a name it is `$GPT2NP_MODEL`, else `tiny`, which a warning says",
        "python",
    ),
    step(
        "Example 2: Coordinate Query",
        """
# Get KV cache for specific coordinate
kv_data = extractor.get_coordinate_kv(result, layer=0, head=0, token=0)
print(f"Key vector: {kv_data['key'][:5]}")
print(f"Value vector: {kv_data['value'][:5]}")
""",
        example_2,
        "`result` may also be what `json.load` read from a file",
        "python",
    ),
    step(
        "Example 3: Batch Processing",
        """
# Generate multiple datasets
python3 tools/dataset_generator.py --random 10 --output-dir data/batch/

# Analyze all generated files
for file in data/batch/*.json; do
    python3 tools/kvcache_query.py "$file" --info
done
""",
        example_3,
        "the folder's index, `index.jsonl`, is not among them",
        "bash",
    ),
    step(
        "Model Variants",
        """
# Use larger model
extractor = GPT2KVCacheExtractor(model_name="gpt2-medium")
""",
        other_size,
        "`--model gpt2-medium` on the command line; also `gpt2-large` and `gpt2-xl`, or a folder",
        "python",
    ),
]

OUTPUT = {
    "model": "name of the model, as it was given",
    "input_text": "the text",
    "input_tokens": "each token as text; bytes of incomplete characters as `\\xe6`",
    "predicted_next_token.token": "the likeliest next token",
    "predicted_next_token.token_id": "its id",
    "predicted_next_token.top_k_candidates": "`token` and `probability` of the 5 likeliest, `--top K` of more",
    "kv_cache.layer_0.head_0.tokens": "one entry for each token, of every layer and head",
    "kv_cache.layer_0.head_0.tokens[0].token_idx": "its position, from 0",
    "kv_cache.layer_0.head_0.tokens[0].key": "the key, `h.0.attn.k[token, head]` of a trace",
    "kv_cache.layer_0.head_0.tokens[0].value": "the value, `h.0.attn.v[token, head]`",
    "metadata.n_layers": "12 in GPT-2 small",
    "metadata.n_heads": "12",
    "metadata.d_head": "64",
    "metadata.sequence_length": "how many tokens",
}
MORE = {
    "schema": "`gpt2np.kv/1`",
    "input_token_ids": "the ids, without which a text cannot be gone on with",
    "fingerprint": "of the weights",
    "digest": "SHA-256 of ids, keys and values. Reading JSON looks at it, and so do `info`, `kv query --info` and "
    "`load_kv` of any file; `kv query` of a `.safetensors` file reads only what it is asked for",
}
PLACES = {
    "src/gpt2_kvcache.py": "`gpt2np kv extract`, `gpt2np.GPT2KVCacheExtractor`",
    "tools/kvcache_query.py": "`gpt2np kv query FILE --info`",
    "tools/dataset_generator.py": "`gpt2np kv dataset --output-dir DIR`",
    "examples/basic_usage.py": "`python -m gpt2np.kv.examples.basic_usage`",
    "data/sample_prompts.txt": "`gpt2np/kv/sample_prompts.txt`, found by this name where there is no such file",
    "data/kv_cache_output.json": "written there by `gpt2np kv extract`, if no `--out` is given",
    "docs/usage_guide.md": "this page, and `--help` of every command",
    "requirements.txt": "`pip install .`",
    "scripts/export_gpt2_full.py": "`gpt2np export FILE --to npz --dialect guide -o OUT`: see the extraction guide",
}
TABLES = {
    "Project Structure": [["the document", "here"], *([f"`{a}`", b] for a, b in PLACES.items())],
    "Output Format": [["key of the JSON file", "what it is"], *([f"`{a}`", b] for a, b in OUTPUT.items())],
    "More keys": [["key", "what it is"], *([f"`{a}`", b] for a, b in MORE.items())],
}
assert {key.partition(".")[0] for key in OUTPUT} == set(KEYS)
