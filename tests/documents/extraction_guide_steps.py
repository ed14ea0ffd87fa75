"""The steps of the extraction guide ("GPT-2 Complete Data Extraction Guide"), as it has them and as we do.

The test runs the guide's own script with Hugging Face first, on a model of GPT-2 small's layers and heads but
with 4 numbers a head; the sizes that the script has written into it are replaced. What comes of it are the
names `hf` (the output) and `hooked` (the script's `extractions`), which the steps are held against.
"""

import json
import re
from pathlib import Path

import numpy as np
from support.document_reader import Seen, Step

from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.tracing.plan import Plan

PROMPT = "The capital of France is"
SIZES = {"768": "48", "1536": "96", "64": "4", "3072": "192", "50257": "2048"}  # of the document, of the test

HEADINGS = [
    "Complete Data Flow Visualization",
    "Extractable Tensors Per Layer",
    "Attention Block Extractions",
    "MLP Block Extractions",
    "Residual Stream",
    "Complete Extraction Summary Table",
    "Memory Cost Analysis",
    "Per-Inference Memory",
    "Scaling with Sequence Length",
    "Extraction Tiers",
    "Tier 1: Standard HuggingFace",
    "Tier 2: With KV Cache",
    "Tier 3: Full Extraction",
    "Python Hook-Based Extraction",
    "TypeScript Interface for Full Extraction",
    "What Each Extraction Enables",
    "References",
]
FILES = ["scripts/export_gpt2_full.py", "FullGPT2Extraction", "LayerExtraction"]

# Names of the summary table and of the diagrams, with the shapes that they have there, without the batch.
TENSORS = {
    "token_ids": ("[seq]", "int64"),
    "tokens": ("[seq]", ""),
    "attention_mask": ("[seq]", "all 1: there is no padding"),
    "position_ids": ("[seq]", "from 0"),
    "token_embeddings": ("[seq, 768]", ""),
    "position_embeddings": ("[seq, 768]", ""),
    "combined_embeddings": ("[seq, 768]", "without dropout, which does nothing in inference"),
    "ln_1_output": ("[seq, 768]", "in the diagram without a name"),
    "c_attn_output": ("[seq, 2304]", "Q, K and V side by side: what is stored, of which the three are views"),
    "Q": ("[seq, 12, 64]", ""),
    "K": ("[seq, 12, 64]", ""),
    "V": ("[seq, 12, 64]", ""),
    "raw_attention_scores": ("[12, seq, seq]", "-inf in the future"),
    "attention_weights": ("[12, seq, seq]", ""),
    "weighted_values": (
        "[seq, 768]",
        "`attn @ V` of the diagram, before `c_proj`; `attn.z` has the heads apart",
    ),
    "attention_output": ("[seq, 768]", "after `c_proj`: what is added to the residual stream"),
    "ln_2_output": ("[seq, 768]", "`MLP Input (post ln_2)`"),
    "mlp_hidden": ("[seq, 3072]", ""),
    "mlp_activated": ("[seq, 3072]", ""),
    "mlp_output": ("[seq, 768]", ""),
    "hidden_state": ("[seq, 768]", "layer i's output, `hidden_states[i + 1]`"),
    "hidden_states": ("13 of [seq, 768]", "the last one before ln_f, which HF has after it"),
    "final_ln": ("[seq, 768]", ""),
    "final_layer_norm": ("[seq, 768]", "another name of `final_ln`"),
    "logits": ("[seq, 50257]", ""),
    "probabilities": ("[seq, 50257]", ""),
    "top_k_tokens": ("[seq, K]", "K is 10; `trace.top_k_tokens(k)`, `--show top_k_tokens --top K`"),
}

# The guide's own script, with the one line that transformers needs today: other attention returns no weights.
SCRIPT = """from transformers import GPT2LMHeadModel
import torch

model = GPT2LMHeadModel.from_pretrained("gpt2")
extractions = {}

def make_qkv_hook(layer_idx):
    def hook(module, input, output):
        # output: [batch, seq, 2304]
        batch, seq, _ = output.shape
        q = output[..., :768].view(batch, seq, 12, 64)
        k = output[..., 768:1536].view(batch, seq, 12, 64)
        v = output[..., 1536:].view(batch, seq, 12, 64)
        extractions[f'layer_{layer_idx}_Q'] = q.detach()
        extractions[f'layer_{layer_idx}_K'] = k.detach()
        extractions[f'layer_{layer_idx}_V'] = v.detach()
    return hook

def make_mlp_hook(layer_idx):
    def hook(module, input, output):
        extractions[f'layer_{layer_idx}_mlp_hidden'] = output.detach()
    return hook

# Register hooks
for i in range(12):
    model.transformer.h[i].attn.c_attn.register_forward_hook(make_qkv_hook(i))
    model.transformer.h[i].mlp.c_fc.register_forward_hook(make_mlp_hook(i))

# Run inference
with torch.no_grad():
    outputs = model(input_ids, output_attentions=True, output_hidden_states=True)
"""


def script_for_the_test() -> str:
    """The script for the small model: its sizes, and attention that returns its weights."""
    sized = re.sub(r"\b(768|1536|64)\b", lambda match: SIZES[match[0]], SCRIPT)
    return sized.replace('"gpt2")', '"gpt2", attn_implementation="eager")')


def same(found, expected):
    """Float32 noise between two programs."""
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=2e-6)


def shape_of(words: str, n: int, k: int = 10) -> tuple[int, ...]:
    """A shape of the document in the test's sizes, `2304` being three times 768."""
    sizes = SIZES | {"seq": str(n), "2304": "144", "K": str(k)}
    return tuple(int(sizes.get(word, word)) for word in re.search(r"\[(.+)\]", words)[1].split(", "))


# -- checks ------------------------------------------------------------------------------------------------


def tokenization(seen: Seen) -> None:
    names = seen.names
    ids = names["input_ids"][0].tolist()
    assert names["token_ids"].dtype == np.int64
    assert names["token_ids"].tolist() == ids
    assert "".join(names["tokens"]) == PROMPT
    assert names["attention_mask"].tolist() == [1] * len(ids)
    assert names["position_ids"].tolist() == list(range(len(ids)))


def every_tensor(seen: Seen) -> None:
    guide, n = seen.names["guide"], len(seen.names["token_ids"])
    for name, (words, _) in TENSORS.items():
        found, shape = guide[name], shape_of(words, n)
        if isinstance(found, tuple):
            assert [x.shape for x in found] == [shape] * (13 if name == "hidden_states" else 12), name
        else:
            assert (len(found),) == shape if name == "tokens" else found.shape == shape, name
    assert {*guide} <= {*TENSORS} | {f"layer_{i}_result" for i in range(12)}
    same(guide["combined_embeddings"], guide["token_embeddings"] + guide["position_embeddings"])
    same(np.array(guide["attention_weights"]).sum(-1), np.ones((12, 12, n)))
    scores = np.array(guide["raw_attention_scores"])
    same(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True), guide["attention_weights"])
    same(scores[3, 2, -1], guide["Q"][3][-1, 2] @ guide["K"][3][:, 2].T / 2)  # / sqrt(4)
    z = np.einsum("hqk,khd->qhd", guide["attention_weights"][5], guide["V"][5]).reshape(n, -1)
    same(guide["weighted_values"][5], z)
    for i in range(12):
        before = guide["hidden_states"][i]
        after = before + guide["attention_output"][i] + guide["mlp_output"][i]
        same(guide["hidden_state"][i], after)
        same(guide["hidden_states"][i + 1], after)
    logits = guide["logits"]
    assert guide["top_k_tokens"][:, 0].tolist() == logits.argmax(-1).tolist()


def in_a_batch(seen: Seen) -> None:
    batch, n = seen.names["batch"], len(seen.names["token_ids"])
    for name, (words, _) in TENSORS.items():
        if name != "tokens":
            first = batch[name][0] if isinstance(batch[name], tuple) else batch[name]
            assert first.shape == (2, *shape_of(words, n)), name


def tier_1(seen: Seen) -> None:
    from gpt2np.export.dialects import Batch

    names = seen.names
    assert (len(names["attentions"]), len(names["hidden_states"])) == (12, 13)
    batch = Batch(names["model"].trace(names["input_ids"]), "hf")  # of the tensor itself, [1, seq]
    for ours in (names, batch):
        same(ours["logits"], names["hf"].logits)
        for name in ("attentions", "hidden_states"):
            for mine, theirs in zip(ours[name], names["hf"][name], strict=True):
                assert mine.shape == tuple(theirs.shape)
                same(mine, theirs)


def tier_2(seen: Seen) -> None:
    cache, n = seen.names["hf"].past_key_values, len(seen.names["token_ids"])
    for i, (key, value) in enumerate(seen.names["past_key_values"]):
        assert key.shape == value.shape == (1, 12, n, 4)
        same(key, cache.layers[i].keys)
        same(value, cache.layers[i].values)


def tier_3(seen: Seen) -> None:
    names, hooked = seen.names, seen.names["hooked"]
    for i in range(12):
        for letter in "QKV":
            same(names[letter][i], hooked[f"layer_{i}_{letter}"][0])
        same(names["mlp_hidden"][i], hooked[f"layer_{i}_mlp_hidden"][0])
        h = names["mlp_hidden"][i]
        gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        same(names["mlp_activated"][i], gelu)


def everything_in_a_file(seen: Seen) -> None:
    from gpt2np.export.dialects import read_dialect

    with np.load("full.npz") as file:
        for name, array in seen.names["hooked"].items():
            same(file[name], array[0])
        assert file["token_ids"].tolist() == seen.names["input_ids"][0].tolist()
    assert read_dialect("full.npz").token_ids == seen.names["input_ids"][0].tolist()


def hooks(seen: Seen) -> None:
    found, hooked = seen.names["extractions"], seen.names["hooked"]
    assert len(hooked) == 4 * 12
    for name, array in hooked.items():
        same(found[name], array[0])
    assert "attention_weights" not in found


def shown(seen: Seen) -> None:
    sites = json.loads(seen.out)["sites"]
    assert list(sites) == ["h.3.attn.q"]
    same(sites["h.3.attn.q"]["values"], seen.names["hooked"]["layer_3_Q"][0])


def plan_of_the_folder(seen: Seen) -> None:
    """The model of the test in the guide's two columns; GPT-2 small's numbers are in `MEMORY`."""
    config = seen.names["model"].config
    for told in json.loads(seen.out)["plans"]:
        plan = Plan(config, told["tokens"])
        assert (told["bytes"], told["quadratic"]) == (plan.nbytes, plan.quadratic_nbytes)
        assert told["quadratic"] == 2 * 12 * 12 * told["tokens"] ** 2 * 4


def typescript(seen: Seen) -> None:
    text = Path("extraction/extraction.d.ts").read_text("utf-8")
    ours = {match[1]: match[2] for match in re.finditer(r"interface (\w+) {\n(.*?)\n}", text, re.DOTALL)}
    properties = re.compile(r"^  (\w+): ([\w\[\]]+);(?: +// (\[.+\]))?", re.MULTILINE)
    for name, body in INTERFACES.items():
        found = {match[1]: (match[2], match[3]) for match in properties.finditer(ours[name])}
        for match in properties.finditer(body):
            kind, shape = found[match[1]]
            assert kind == match[2]
            if match[3]:
                wanted = [SIZES.get(word, word) for word in match[3][1:-1].split(", ")]
                assert shape == f"[{', '.join(wanted)}]"
    index = json.loads(Path("extraction/extraction.json").read_text("utf-8"))
    assert index["tokenIds"] == seen.names["input_ids"][0].tolist()
    data = np.fromfile("extraction/extraction.bin", "<f4")
    for facts in index["arrays"]:
        if facts["name"] == "query" and facts["layer"] == 3:
            start = facts["byteOffset"] // 4
            found = data[start : start + np.prod(facts["shape"])].reshape(facts["shape"])
            same(found, seen.names["hooked"]["layer_3_Q"][0])


# The document's interfaces, line by line; ours have `positionIds` and a sentence for each property besides.
INTERFACES = {
    "FullGPT2Extraction": """
  tokenIds: number[];
  tokens: string[];
  attentionMask: number[];
  tokenEmbeddings: Float32Array;      // [seq, 768]
  positionEmbeddings: Float32Array;   // [seq, 768]
  layers: LayerExtraction[];
  finalLayerNorm: Float32Array;       // [seq, 768]
  logits: Float32Array;               // [seq, 50257]
""",
    "LayerExtraction": """
  layerIndex: number;
  query: Float32Array;                // [seq, 12, 64]
  key: Float32Array;                  // [seq, 12, 64]
  value: Float32Array;                // [seq, 12, 64]
  rawAttentionScores: Float32Array;   // [12, seq, seq]
  attentionWeights: Float32Array;     // [12, seq, seq]
  attentionOutput: Float32Array;      // [seq, 768]
  mlpHidden: Float32Array;            // [seq, 3072]
  mlpActivated: Float32Array;         // [seq, 3072]
  mlpOutput: Float32Array;            // [seq, 768]
  hiddenState: Float32Array;          // [seq, 768]
""",
}

TRACE = """import gpt2np

model = gpt2np.load("gpt2")
trace = model.trace("The capital of France is")
guide = trace.to("guide")
token_ids, tokens = guide["token_ids"], guide["tokens"]
attention_mask, position_ids = guide["attention_mask"], guide["position_ids"]
"""

STEPS = [
    Step(
        "Complete Data Flow Visualization",
        "EXTRACTABLE AT TOKENIZATION: token_ids, tokens, attention_mask, position_ids",
        TRACE,
        tokenization,
        "also attributes of the trace: `trace.attention_mask`",
        "python",
    ),
    Step(
        "Complete Extraction Summary Table",
        "every tensor of the table",
        'guide = model.trace("The capital of France is").to("guide")',
        every_tensor,
        '`guide["Q"][3]` or `guide.layer_3_Q`; a trace takes the same names: `trace["Q", 3]`',
        "python",
    ),
    Step(
        "Complete Extraction Summary Table",
        "shapes with a batch axis: [batch, seq, 12, 64]",
        "from gpt2np.export.dialects import Batch\n"
        'batch = Batch(model.trace([token_ids, token_ids]), "guide")',
        in_a_batch,
        "for prompts of equal length: there is no padding",
        "python",
    ),
    Step(
        "Complete Extraction Summary Table",
        "some of them only",
        'gpt2np trace "The capital of France is" --model gpt2 --show layer_3_Q --json',
        shown,
        "without `--json` as a table; `--keep Q --keep attention_weights --out FILE` saves them",
    ),
    Step(
        "Memory Cost Analysis",
        "Scaling with Sequence Length: 50, 100, 256, 512, 1024 tokens",
        "gpt2np plan 50 100 256 512 1024 --model gpt2 --json",
        plan_of_the_folder,
        "exact bytes, site by site, before anything runs; `--keep` for some of them",
    ),
    Step(
        "Extraction Tiers",
        "outputs = model(input_ids, output_attentions=True, output_hidden_states=True)\n\n"
        "logits = outputs.logits\nattentions = outputs.attentions\nhidden_states = outputs.hidden_states",
        'outputs = model.trace(input_ids[0]).to("hf")\n\n'
        "logits = outputs.logits\nattentions = outputs.attentions\nhidden_states = outputs.hidden_states",
        tier_1,
        "tier 1; `model(input_ids, output_attentions=True)` says so; "
        '`Batch(model.trace(input_ids), "hf")` keeps the batch',
        "python",
    ),
    Step(
        "Extraction Tiers",
        "outputs = model(input_ids, use_cache=True)\n\npast_key_values = outputs.past_key_values",
        'outputs = model.trace(input_ids[0], keep="past_key_values").to("hf")\n\n'
        "past_key_values = outputs.past_key_values",
        tier_2,
        "tier 2; a tuple of (K, V), as the guide has it: today's transformers return a `DynamicCache`",
        "python",
    ),
    Step(
        "Extraction Tiers",
        "Q, K, V\nraw_attention_scores\nmlp_hidden\nmlp_activated",
        "Q, K, V = guide.Q, guide.K, guide.V\nraw_attention_scores = guide.raw_attention_scores\n"
        "mlp_hidden, mlp_activated = guide.mlp_hidden, guide.mlp_activated",
        tier_3,
        "tier 3: no other forward pass, no hooks",
        "python",
    ),
    Step(
        "Extraction Tiers",
        "scripts/export_gpt2_full.py",
        'gpt2np trace "The capital of France is" --model gpt2 --out full.safetensors',
        lambda seen: Path("full.safetensors").stat(),
        "the script is named and not shown",
    ),
    Step(
        "Extraction Tiers",
        "scripts/export_gpt2_full.py",
        "gpt2np export full.safetensors --to npz --dialect guide -o full.npz",
        everything_in_a_file,
        "the guide's names in a file; also `json`, `csv`, `safetensors`",
    ),
    Step(
        "Python Hook-Based Extraction",
        SCRIPT,
        'import gpt2np\n\nmodel = gpt2np.load("gpt2")\n'
        'extractions = model.trace(input_ids[0], keep=["Q", "K", "V", "mlp_hidden"]).to("guide")\n',
        hooks,
        'the same names: `extractions["layer_3_Q"]`; without the batch axis',
        "python",
    ),
    Step(
        "TypeScript Interface for Full Extraction",
        "export interface FullGPT2Extraction",
        "gpt2np export full.safetensors --to ts -o extraction",
        typescript,
        "`extraction.d.ts`, data and a loader for Node and browsers; `positionIds` besides",
    ),
]


def _names() -> list[list[str]]:
    """Every tensor's name, shape and place."""
    rows = [["in the guide", "its shape", "our site", "note"]]
    for name, (shape, note) in TENSORS.items():
        site = next((s for s in SITES if name in s.names.get("guide", ())), None)
        ours = f"`trace.{name}`" if site is None else f"`{site.full_name(None).replace('None', 'i')}`"
        if name == "hidden_states":
            ours = "`embed`, `h.i.resid_post`"
        rows.append([f"`{name}`", f"`{shape}`", ours, note])
    return rows


def _properties() -> list[list[str]]:
    """Properties of the interfaces and our sites."""
    rows = [["property", "our site"]]
    for site in SITES:
        if "typescript" in site.names:
            rows.append(
                [f"`{site.names['typescript'][0]}`", f"`{site.full_name(None).replace('None', 'i')}`"]
            )
    return rows


# The guide's rows at 100 tokens, in bytes by its own calculation, and the sites that they are.
PER_INFERENCE = {
    "Embeddings": (2 * 100 * 768 * 4, "0.6 MB", ["wte", "wpe"]),
    "Q, K, V": (12 * 3 * 100 * 12 * 64 * 4, "11 MB", ["attn.qkv"]),
    "Raw attention scores": (12 * 12 * 100 * 100 * 4, "5.8 MB", ["attn.scores"]),
    "Attention weights": (12 * 12 * 100 * 100 * 4, "5.8 MB", ["attn.pattern"]),
    "Attention outputs": (12 * 100 * 768 * 4, "3.7 MB", ["attn.out"]),
    "MLP hidden": (12 * 100 * 3072 * 4, "14.7 MB", ["mlp.pre"]),
    "MLP activated": (12 * 100 * 3072 * 4, "14.7 MB", ["mlp.post"]),
    "MLP outputs": (12 * 100 * 768 * 4, "3.7 MB", ["mlp.out"]),
    "Hidden states": (13 * 100 * 768 * 4, "4 MB", ["embed", "resid_post"]),
    "Logits": (100 * 50257 * 4, "20 MB", ["logits"]),
}
LEFT_OUT = ["ln_1", "attn.z", "resid_mid", "ln_2", "ln_f"]
SCALING = {  # tokens: attention, linear, total as the guide prints them, in MB
    50: (2.9, 30, 33),
    100: (11.6, 60, 72),
    256: (76, 154, 230),
    512: (302, 307, 609),
    1024: (1200, 614, 1800),
}


def _memory() -> list[list[str]]:
    """The guide's first table beside the plan of GPT-2 small."""
    plan = Plan(RELEASED["gpt2"], 100)
    groups, rows = plan.groups(), [["at 100 tokens", "the guide", "sites here", "bytes here"]]
    for name, (_, printed, sites) in PER_INFERENCE.items():
        names = ", ".join(f"`{site}`" for site in sites)
        rows.append([name, printed, names, f"{sum(groups[site] for site in sites):,}"])
    left_out = sum(groups[site] for site in LEFT_OUT)
    rows.append(["(not in the guide)", "-", ", ".join(f"`{site}`" for site in LEFT_OUT), f"{left_out:,}"])
    rows.append(["TOTAL", "~84 MB", "a whole trace", f"{plan.nbytes:,}"])
    return rows


def _scaling() -> list[list[str]]:
    """The guide's second table beside what its own rows add up to, and beside the plan."""
    rows = [["tokens", "the guide: attention, linear, total", "its own rows", "a whole trace here"]]
    for n, (attention, linear, total) in SCALING.items():
        of_rows = sum(size for size, _, _ in PER_INFERENCE.values()) - 2 * 12 * 12 * 100 * 100 * 4
        squares, lines = 2 * 12 * 12 * n * n * 4, of_rows * n // 100
        plan = Plan(RELEASED["gpt2"], n)
        own = [plan.quadratic_nbytes, plan.nbytes - plan.quadratic_nbytes, plan.nbytes]
        rows.append(
            [
                f"{n:,}",
                f"{attention:,}, {linear:,}, {total:,} MB",
                ", ".join(f"{x / 1e6:,.1f}" for x in (squares, lines, squares + lines)) + " MB",
                ", ".join(f"{x / 1e6:,.1f}" for x in own) + " MB",
            ]
        )
    return rows


TABLES = {
    "names": _names(),
    "properties": _properties(),
    "Per-Inference Memory": _memory(),
    "Scaling with Sequence Length": _scaling(),
}
