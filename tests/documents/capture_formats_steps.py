"""Document 001, the capture formats: its commands and snippets in order, and what must come of each."""

import functools
import re
from pathlib import Path

import numpy as np
from documents.listed_structures import INTERNALS, RAW, check, listed
from support.document_reader import Step, replaced

from gpt2np.capture.capture_files import load_capture
from gpt2np.capture.formats import captured_sites
from gpt2np.capture.manifest import read_manifest
from gpt2np.capture.prompt_set import load_prompt_set
from gpt2np.tracing.contract import released

HEADINGS = """Gemma-2-2B-IT Data Format Reference | Model Architecture | Captured Data Formats |
1. Layer Internals (Full Capture) | 2. Raw Residual Captures (Simpler Format) | Key Differences |
Working with Captured Data | Loading Layer Internals | Loading Raw Residual | Handling Variable Prompt Lengths |
Capture Commands | Layer Internals (Full Capture) | Raw Residual (All Layers) | Prompt Sets"""
HEADINGS = [" ".join(heading.split()) for heading in HEADINGS.split("|")]
FILES = """inference/capture_raw_activations.py inference/README.md inference/prompts inference/raw/internals
inference/raw/residual dynamic/1_L16.pt dynamic/8_L25.pt probe_layer16.pt""".split()

MODEL = "gemma-2-2b-it"  # here a small random one of that name, with as many layers and heads
LAYERS, HEADS, WIDTH, NEW = 26, 8, 24, 50
FOLDER = "experiments/my_exp/inference/raw"
SETS = {
    "single_trait": 10,
    "multi_trait": 10,
    "dynamic": 8,
    "adversarial": 8,
    "baseline": 5,
    "real_world": 10,
}


# -- what Hugging Face computes -------------------------------------------------------------------------


@functools.cache
def loaded():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32", attn_implementation="eager").eval()
    return AutoTokenizer.from_pretrained(MODEL), model


@functools.cache
def prompt_of(text):
    """How many tokens a prompt has, and their ids."""
    ids = loaded()[0](text).input_ids
    return len(ids), ids


PROJECTIONS, MLP = ("q_proj", "k_proj", "v_proj"), ("up_proj", "gelu", "down_proj")
RESIDUAL = ("input", "after_attn", "output")
# Modules of a layer in HF's Gemma-2: their outputs, and those of which it is the input.
OUTPUTS = {name: f"self_attn.{name}" for name in PROJECTIONS}
OUTPUTS |= {"up_proj": "mlp.up_proj", "gelu": "mlp.act_fn", "down_proj": "mlp.down_proj", "output": ""}
INPUTS = {"input": "", "after_attn": "pre_feedforward_layernorm"}  # of modules of it


def hooked(model, ids):
    """Each layer's arrays in one pass over these tokens, by the document's names; the logits."""
    import torch

    layers = [{} for _ in range(LAYERS)]
    hooks = []
    for layer, block in zip(layers, model.model.layers, strict=True):
        for name, module in OUTPUTS.items():

            def output(_, inputs, out, name=name, layer=layer):
                layer[name] = (out[0] if isinstance(out, tuple) else out)[0].numpy()

            hooks.append(block.get_submodule(module).register_forward_hook(output))
        for name, module in INPUTS.items():

            def read(_, inputs, name=name, layer=layer):
                layer[name] = inputs[0][0].numpy()

            hooks.append(block.get_submodule(module).register_forward_pre_hook(read))
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_attentions=True)
    for hook in hooks:
        hook.remove()
    for layer, attention in zip(layers, out.attentions, strict=True):
        layer["attn_weights"] = attention[0].numpy()
    return layers, out.logits[0].numpy()


@functools.cache
def layers_of(ids):
    """The same, and the likeliest next tokens instead of the logits."""
    layers, logits = hooked(loaded()[1], list(ids))
    return layers, logits.argmax(axis=-1).tolist()


def theirs(data, layer):
    """The arrays of a layer in the pass that a capture is of."""
    ids = [*data["prompt"]["token_ids"], *data["response"]["token_ids"]]
    return layers_of(tuple(ids[:-1]))[0][layer]


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.asarray(found), expected, atol=2e-4, rtol=1e-3)


def texts_agree(data, text):
    """Prompt and response, which HF would choose token by token; how long the prompt is."""
    n, prompt = prompt_of(text)
    response = data["response"]["token_ids"]
    assert data["prompt"]["token_ids"] == prompt
    assert len(response) == NEW
    _, likeliest = layers_of(tuple(prompt + response[:-1]))
    assert response == likeliest[n - 1 :]
    assert data["prompt"]["text"] == text  # as it was typed, without the token that it begins with
    assert data["response"]["text"] == loaded()[0].decode(response)
    assert [len(data[phase]["tokens"]) for phase in ("prompt", "response")] == [n, NEW]
    return n


def internals_agree(data, text, layer):
    """The document's structure, key by key, and HF's values in it."""
    n, arrays = texts_agree(data, text), theirs(data, layer)
    prompt, response = data["prompt"], data["response"]
    for phase in (prompt, response):
        assert list(phase) == ["text", "tokens", "token_ids", "attention", "mlp", "residual"]
        assert set(phase["attention"]) == {"q_proj", "k_proj", "v_proj", "attn_weights"}
        assert list(phase["mlp"]) == ["up_proj", "gelu", "down_proj"]
        assert list(phase["residual"]) == ["input", "after_attn", "output"]
    for group, names in (("attention", PROJECTIONS), ("mlp", MLP)):
        for name in names:
            rows = arrays[name]
            close(prompt[group][name], rows[:n])
            assert len(response[group][name]) == NEW
            for i, row in enumerate(response[group][name]):
                close(row, rows[n - 1 + i : n + i])
    for name in RESIDUAL:
        close(prompt["residual"][name], arrays[name][:n])
        close(response["residual"][name], arrays[name][n - 1 :, None])  # [50, 1, width]
    pattern = arrays["attn_weights"]
    close(prompt["attention"]["attn_weights"], pattern[:, :n, :n])
    for i, grown in enumerate(response["attention"]["attn_weights"]):
        close(grown, pattern[:, : n + i, : n + i])


def residual_agrees(data, text):
    """The same of the raw residual."""
    n = texts_agree(data, text)
    for phase in ("prompt", "response"):
        assert list(data[phase]) == ["text", "tokens", "token_ids", "activations", "attention"]
        assert list(data[phase]["activations"]) == [str(i) for i in range(LAYERS)]
        assert list(data[phase]["attention"]) == [f"layer_{i}" for i in range(LAYERS)]
    for layer in (0, 16, 25):
        arrays = theirs(data, layer)
        for name, rows in zip(("residual_in", "after_attn", "residual_out"), RESIDUAL, strict=True):
            close(data["prompt"]["activations"][str(layer)][name], arrays[rows][:n])
            close(data["response"]["activations"][str(layer)][name], arrays[rows][n - 1 :])  # [50, width]
        mean = arrays["attn_weights"].mean(axis=0)
        close(data["prompt"]["attention"][f"layer_{layer}"], mean[:n, :n])
        assert len(data["response"]["attention"][f"layer_{layer}"]) == NEW
        for i, grown in enumerate(data["response"]["attention"][f"layer_{layer}"]):
            close(grown, mean[: n + i, : n + i])


def texts_of(name):
    return [prompt.text for prompt in load_prompt_set(name).prompts]


# -- the checks -----------------------------------------------------------------------------------------


def internals_written(seen):
    import torch

    files = {path.name for path in Path(FOLDER, "internals/dynamic").iterdir()}
    assert files == {f"{id}_L{layer}.pt" for id in range(1, 9) for layer in range(LAYERS)}
    assert len(files) == 208  # 8 prompts x 26 layers
    for id, layer in ((1, 16), (8, 25)):
        data = torch.load(f"{FOLDER}/internals/dynamic/{id}_L{layer}.pt")
        check(data, listed(INTERNALS), len(data["prompt"]["token_ids"]))
        internals_agree(data, texts_of("dynamic")[id - 1], layer)
        by_us = load_capture(f"{FOLDER}/internals/dynamic/{id}_L{layer}.pt")
        internals_agree(by_us, texts_of("dynamic")[id - 1], layer)


def residual_written(seen):
    import torch

    files = sorted(Path(FOLDER, "residual/dynamic").iterdir())
    assert [path.name for path in files] == [f"{id}.pt" for id in range(1, 9)]
    for id in (1, 8):
        data = torch.load(files[id - 1])
        check(data, listed(RAW), len(data["prompt"]["token_ids"]))
        residual_agrees(data, texts_of("dynamic")[id - 1])
        residual_agrees(load_capture(files[id - 1]), texts_of("dynamic")[id - 1])


def internals_loaded(seen):
    names = seen.names
    n, arrays = prompt_of(texts_of("dynamic")[0])[0], theirs(names["data"], 16)
    pattern = arrays["attn_weights"]
    close(names["prompt_attn"], pattern[:, :n, :n])
    assert names["prompt_attn"].shape == (HEADS, n, n)
    assert len(names["response_attn"]) == NEW
    close(names["first_token_attn"], pattern[:, :n, :n])
    close(names["last_token_attn"], pattern[:, : n + 49, : n + 49])
    close(names["mlp_up"], arrays["up_proj"][:n])
    close(names["mlp_down"], arrays["down_proj"][:n])
    close(names["residual_after_attn"], arrays["after_attn"][:n])


def residual_loaded(seen):
    names = seen.names
    n, arrays = prompt_of(texts_of("dynamic")[0])[0], theirs(names["data"], 16)
    close(names["layer_16_prompt"], arrays["output"][:n])
    close(names["layer_16_response"], arrays["output"][n - 1 :])
    close(names["prompt_attn_L16"], arrays["attn_weights"].mean(axis=0)[:n, :n])
    assert [a.shape for a in names["response_attn_L16"]] == [(n + i, n + i) for i in range(NEW)]
    vector = names["trait_vector"].numpy()
    assert names["projections"].shape == (NEW,)
    close(names["projections"], arrays["output"][n - 1 :] @ vector / np.linalg.norm(vector))


def length_said(seen):
    assert seen.out == f"Prompt has {prompt_of(texts_of('dynamic')[0])[0]} tokens\n"
    assert {*seen.names["prompt_lengths"]["dynamic"]} == {*range(1, 9)}


def one_prompt(seen):
    internals_agree(load_capture(f"{FOLDER}/internals/prompt/1_L16.safetensors"), "Your prompt here", 16)
    (entry,) = [entry for entry in read_manifest(Path("experiments/my_exp")) if entry.prompt_set == "prompt"]
    assert (entry.id, entry.text, entry.layer, entry.response_tokens) == (1, "Your prompt here", 16, NEW)


def one_set(seen):
    files = sorted(Path(FOLDER, "residual/single_trait").iterdir())
    assert sorted(int(path.stem) for path in files) == list(range(1, 11))
    residual_agrees(
        load_capture(f"{FOLDER}/residual/single_trait/10.safetensors"), texts_of("single_trait")[9]
    )


def sets_listed(seen):
    assert dict(re.findall(r"^(\w+), (\d+) prompts:", seen.out, re.MULTILINE)) == {
        name: str(n) for name, n in SETS.items()
    }
    n, _ = prompt_of(texts_of("dynamic")[0])
    own = seen.out[seen.out.index("dynamic, 8") :]
    assert re.search(rf"^ +1 +{n} ", own, re.MULTILINE)


# -- the document, from top to bottom -------------------------------------------------------------------

REPLACED = {
    "python inference/capture_raw_activations.py": "gpt2np capture",
    "{experiment_name}": "my_exp",
    "'inference/raw/": "'experiments/my_exp/inference/raw/",
}


def step(heading, theirs, check, note, language):
    """A step of which nothing but the names of programs and folders are replaced."""
    return Step(heading, theirs, replaced(theirs, REPLACED), check, note, language)


LOADING_INTERNALS = """
import torch

# Load single layer capture
data = torch.load('inference/raw/internals/dynamic/1_L16.pt')

# Access prompt attention (per-head)
prompt_attn = data['prompt']['attention']['attn_weights']  # [8, N, N]

# Access response attention (list of per-head patterns)
response_attn = data['response']['attention']['attn_weights']  # List[Tensor[8, N+i, N+i]]
first_token_attn = response_attn[0]  # [8, N, N]
last_token_attn = response_attn[-1]  # [8, N+49, N+49]

# Access MLP activations
mlp_up = data['prompt']['mlp']['up_proj']  # [N, 9216]
mlp_down = data['prompt']['mlp']['down_proj']  # [N, 2304]

# Access residual stream
residual_after_attn = data['prompt']['residual']['after_attn']  # [N, 2304]
"""
LOADING_RAW = """
import torch

# Load all-layer capture
data = torch.load('inference/raw/residual/dynamic/1.pt')

# Access prompt activations (all layers)
layer_16_prompt = data['prompt']['activations']['16']['residual_out']  # [N, 2304]

# Access response activations
layer_16_response = data['response']['activations']['16']['residual_out']  # [50, 2304]

# Access head-averaged attention
prompt_attn_L16 = data['prompt']['attention']['layer_16']  # [N, N]
response_attn_L16 = data['response']['attention']['layer_16']  # List[Tensor[N+i, N+i]]

# Project onto trait vector
trait_vector = torch.load('experiments/my_exp/extraction/category/trait/vectors/probe_layer16.pt')
projections = (layer_16_response @ trait_vector) / trait_vector.norm()  # [50]
"""

STEPS = [
    Step(
        "1. Layer Internals (Full Capture)",
        "inference/raw/internals/{prompt_set}/{id}_L{layer}.pt",
        "gpt2np capture --experiment my_exp --prompt-set dynamic --layer-internals all --format pt",
        internals_written,
        "208 files of 8 prompts and 26 layers, in `experiments/my_exp/`; without `--format pt` they are `.safetensors`",
    ),
    Step(
        "2. Raw Residual Captures (Simpler Format)",
        "inference/raw/residual/{prompt_set}/{id}.pt",
        "gpt2np capture --experiment my_exp --prompt-set dynamic --format pt",
        residual_written,
        "one file a prompt",
    ),
    step(
        "Loading Layer Internals",
        LOADING_INTERNALS,
        internals_loaded,
        "the rest as it stands; without torch: `load_capture`, below",
        "python",
    ),
    step(
        "Loading Raw Residual",
        LOADING_RAW,
        residual_loaded,
        "the rest as it stands; the trait vector is your own",
        "python",
    ),
    step(
        "Handling Variable Prompt Lengths",
        """
# Prompt token counts vary across prompts
prompt_lengths = {
    'dynamic': {
        1: 26, 2: 43, 3: 38, 4: 31, 5: 28, 6: 35, 7: 41, 8: 31
    }
}

# Always check actual shape
N = data['prompt']['activations']['16']['residual_out'].shape[0]
print(f"Prompt has {N} tokens")
""",
        length_said,
        "those lengths are Gemma's; `gpt2np capture --list` has them for the model at hand",
        "python",
    ),
    step(
        "Layer Internals (Full Capture)",
        """
python inference/capture_raw_activations.py \\
    --experiment {experiment_name} \\
    --prompt "Your prompt here" \\
    --layer-internals 16  # Capture layer 16 with full components
""",
        one_prompt,
        "the first `--prompt` of an experiment is `1_L16`, the next `2_L16`, unless `--id ID` says otherwise",
        "bash",
    ),
    step(
        "Raw Residual (All Layers)",
        """
python inference/capture_raw_activations.py \\
    --experiment {experiment_name} \\
    --prompt-set single_trait  # Captures all 26 layers
""",
        one_set,
        "all layers of whatever model it is",
        "bash",
    ),
    Step(
        "Prompt Sets",
        "inference/prompts/*.json",
        "gpt2np capture --list",
        sets_listed,
        "the six sets, with their lengths in tokens; a set of your own is `--prompt-set FILE.json`",
    ),
]


def sites_at(place):
    """What a GPT-2 and a Gemma-2 have at a place of a capture."""
    inside = not place.startswith("activations") and not place.endswith("layer_i")
    return [f"`h.L.{captured_sites(released(m), inside)[place]}`" for m in ("gpt2", "google/gemma-2-2b-it")]


def keys_of_internals():
    """A row for each key of layer internals: its shapes, the document's widths, and the sites."""
    widths = {"q_proj": ("head*d_head", 2048), "up_proj": ("d_mlp", 9216), "gelu": ("d_mlp", 9216)}
    widths |= dict.fromkeys(("k_proj", "v_proj"), ("kv_head*d_head", 1024))
    rows = [
        ["key", "prompt", "response", "the document's width", "site of a GPT-2, in layer L", "of a Gemma-2"]
    ]
    for group, names in (("attention", (*PROJECTIONS, "attn_weights")), ("mlp", MLP), ("residual", RESIDUAL)):
        for name in names:
            width, number = widths.get(name, ("n_embd", 2304))
            shapes = [f"[N, {width}]", f"list of [1, {width}]"]
            if group == "residual":
                shapes[1] = "[n, 1, n_embd]"
            if name == "attn_weights":
                shapes, number = ["[head, N, N]", "list of [head, N+i, N+i]"], "8 heads"
            rows.append([f"`{group}/{name}`", *shapes, str(number), *sites_at(f"{group}/{name}")])
    return rows


def keys_of_residual():
    """The same of the raw residual."""
    rows = [["key", "prompt", "response", "the document's width", "site of a GPT-2", "of a Gemma-2"]]
    for name in ("residual_in", "after_attn", "residual_out"):
        place = f"activations/{{}}/{name}"
        shapes = ["[N, n_embd]", "[n, n_embd]", "2304"]
        rows.append([f"`{place.format('L')}`", *shapes, *sites_at(place.format("i"))])
    own = [f"{site}, its mean over heads" for site in sites_at("attention/layer_i")]
    return [*rows, ["`attention/layer_L`", "[N, N]", "list of [N+i, N+i]", "", *own]]


TABLES = {"Keys of layer internals": keys_of_internals(), "Keys of raw residual": keys_of_residual()}
