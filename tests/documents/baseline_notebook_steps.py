"""The cells of the baseline notebook ("Transformer Internals - Baseline Analysis"), and what stands for them.

The test first runs the notebook's own cells with Hugging Face, on a model of the name that it loads; what
each of them printed is `printed[number]` in the names that the steps are checked with. The model is a small
GPT-Neo, all parameters random, whose window is shorter than the text.
"""

import re

from support import document_reader
from support.document_reader import Seen, Step

NAME = "EleutherAI/gpt-neo-125M"
PROMPT = "Why does phone battery drain faster over time? Answer in 2 detailed points"
REPLACED = {
    "    output_attentions=True,\n    output_hidden_states=True,\n).to": (  # else no attention is returned
        '    output_attentions=True,\n    output_hidden_states=True,\n    attn_implementation="eager",\n).to'
    ),
}

HEADINGS = [
    "1. Setup",
    "2. Loading the model",
    "3. Model architecture",
    "4. Generating output for a test prompt",
    "5. Understanding attention tensor",
    "6. Understanding hidden state",
    "7. Summarising key observations",
]
FILES = [NAME, "repetition_penalty"]

CELLS = {
    1: """import torch
from transformers import AutoTokenizer, AutoModelForCausalLM
import numpy as np
import warnings
warnings.filterwarnings("ignore")
""",
    2: """torch.manual_seed(42)
np.random.seed(42)
""",
    3: """model = "EleutherAI/gpt-neo-125M"
device = "cuda" if torch.cuda.is_available() else "cpu"
""",
    4: """tokenizer = AutoTokenizer.from_pretrained(model)
model = AutoModelForCausalLM.from_pretrained(
    model,
    output_attentions=True,
    output_hidden_states=True,
).to(device)
""",
    5: """config = model.config
print("Model Architecture:")
print(f"  Model type: {config.model_type}")
print(f"  Number of layers: {config.num_layers}")
print(f"  Number of attention heads: {config.num_heads}")
print(f"  Hidden size: {config.hidden_size}")
print(f"  Vocabulary size: {config.vocab_size}")
print(f"  Max position embeddings: {config.max_position_embeddings}")
print(f"\\nTotal parameters: {sum(p.numel() for p in model.parameters()):,}")
""",
    6: """prompt = "Why does phone battery drain faster over time? Answer in 2 detailed points"
inputs = tokenizer(prompt, return_tensors="pt").to(device)
""",
    7: """print(f"\\nPrompt tokens: {len(inputs['input_ids'][0])}")
""",
    8: """with torch.no_grad():
    output = model.generate(
    **inputs,
    max_new_tokens=40,
    do_sample=False,
    repetition_penalty=10.0,
    return_dict_in_generate=True,
    output_attentions=True,
    output_hidden_states=True,
)
""",
    9: """decoded = tokenizer.decode(output.sequences[0], skip_special_tokens=True)
print("Generated text:\\n")
print(decoded)
""",
    10: """new_tokens = output.sequences[0][len(inputs['input_ids'][0]):]
print(f"New tokens: {len(new_tokens)}")
""",
    11: """print("Number of layers per step:", len(output.attentions[0]))
""",
    12: """print(f"  Number of generation steps: {len(output.attentions)}")
""",
    13: """print("Attention shape (layer 0):", output.attentions[0][0].shape)
""",
    14: """print("\\nAttention shapes for first generation step:")
for layer_idx in [0, config.num_layers // 2, config.num_layers - 1]:
    shape = output.attentions[0][layer_idx].shape
    print(f"  Layer {layer_idx:2d}: {shape}")
""",
    15: """first_layer_attn = output.attentions[0][0][0]  # [num_heads, seq_len, seq_len]
print("Attention Statistics (Layer 0, First Generation Step):")
print(f"  Min value: {first_layer_attn.min().item():.6f}")
print(f"  Max value: {first_layer_attn.max().item():.6f}")
print(f"  Mean value: {first_layer_attn.mean().item():.6f}")
attn_sums = first_layer_attn.sum(dim=-1)
print(f"\\nAttention weight sums (should be ~1.0):")
print(f"  Min sum: {attn_sums.min().item():.6f}")
print(f"  Max sum: {attn_sums.max().item():.6f}")
print(f"  Mean sum: {attn_sums.mean().item():.6f}")
""",
    16: """print(f"  Number of generation steps: {len(output.hidden_states)}")
print(f"  Number of layers per step: {len(output.hidden_states[0])}")
print(f"\\nFirst generation step, layer 0:")
print(f"  Shape: {output.hidden_states[0][0].shape}")
print(f"  Format: [batch_size, seq_len, hidden_size]")
print(f"  Interpretation: [1, sequence_length, {config.hidden_size}]")
print("\\nHidden state shapes for first generation step:")
for layer_idx in [0, config.num_layers // 2, config.num_layers - 1]:
    shape = output.hidden_states[0][layer_idx].shape
    print(f"  Layer {layer_idx:2d}: {shape}")
""",
    17: """print("Hidden State Statistics Across Layers (First Generation Step):")
print("\\nLayer | Mean     | Std      | Min       | Max")
print("-" * 55)

for layer_idx in range(0, config.num_layers, 3):
    hidden = output.hidden_states[0][layer_idx][0]  # [seq_len, hidden_size]

    print(f"{layer_idx:5d} | {hidden.mean().item():8.4f} | "
          f"{hidden.std().item():8.4f} | {hidden.min().item():9.4f} | "
          f"{hidden.max().item():8.4f}")
""",
    18: """input_repr = output.hidden_states[0][0][0, -1, :]  # Last token, layer 0
output_repr = output.hidden_states[0][-1][0, -1, :]  # Last token, last layer
input_norm = torch.norm(input_repr, p=2).item()
output_norm = torch.norm(output_repr, p=2).item()

cos_sim = torch.nn.functional.cosine_similarity(
    input_repr.unsqueeze(0),
    output_repr.unsqueeze(0)
).item()
print("\\nInput vs. Output Layer Comparison (Last Token):")
print(f"  Layer 0 norm: {input_norm:.4f}")
print(f"  Layer {config.num_layers-1} norm: {output_norm:.4f}")
print(f"  Cosine similarity: {cos_sim:.4f}")
print(f"  Interpretation: {'Similar direction' if cos_sim > 0.5 else 'Different direction'}")
""",
    19: """print(f"\\nModel: {model}")
print(f"  Layers: {config.num_layers}")
print(f"  Heads per layer: {config.num_heads}")
print(f"  Hidden size: {config.hidden_size}")
print(f"\\nGeneration:")
print(f"  Prompt tokens: {len(inputs['input_ids'][0])}")
print(f"  Generated tokens: {len(new_tokens)}")
print(f"  Total generation steps: {len(output.attentions)}")
print(f"\\nCaptured Internals:")
print(f"  Attention tensors per step: {len(output.attentions[0])} layers")
print(f"  Hidden state tensors per step: {len(output.hidden_states[0])} layers")
print(f"  Attention shape: {output.attentions[0][0].shape}")
print(f"  Hidden state shape: {output.hidden_states[0][0].shape}")
""",
}


def cell_for_the_test(number: int) -> str:
    """A cell, with attention that returns its weights."""
    return document_reader.replaced(CELLS[number], REPLACED)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def same_text(found: str, expected: str) -> None:
    """Two printed texts: the same words, and numbers equal to the last digit but one of rounding."""
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", expected).split()
    for ours, theirs in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
        digits = len(theirs.partition(".")[2])
        assert abs(float(ours) - float(theirs)) <= 2.1 * 10**-digits * (digits > 0), (ours, theirs)


def as_torch(text: str) -> str:
    """Shapes as torch prints them."""
    return re.sub(r"\((\d+(?:, \d+)+)\)", r"torch.Size([\1])", text)


def printed(*numbers: int):
    """What these cells printed is what the step prints."""

    def check(seen: Seen) -> None:
        expected = "".join(seen.names["printed"][number] for number in numbers)
        same_text(as_torch(seen.out), expected)

    return check


def all_printed(seen: Seen) -> None:
    """The whole notebook, but for "Model:", where it prints the module."""
    text = "".join(seen.names["printed"].values())
    expected = re.sub(r"Model: GPTNeoForCausalLM\(.*?\n\)\n", f"Model: {NAME}\n", text, flags=re.DOTALL)
    assert expected != text
    same_text(seen.out, expected)
    lines, theirs = seen.out.splitlines(), expected.splitlines()
    assert [bool(line.strip()) for line in lines] == [bool(line.strip()) for line in theirs]


def summary(seen: Seen) -> None:
    """Cell 19, whose first line is the whole module."""
    expected = seen.names["printed"][19]
    same_text(as_torch(seen.out), "\nModel: " + NAME + "\n" + expected[expected.index("  Layers: ") :])


def chosen(seen: Seen) -> None:
    """Every token is that which Hugging Face chose, and so is every array."""
    import numpy as np

    ours, theirs = seen.names["output"], seen.names["theirs"]
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert ours.token_ids == theirs.sequences[0].tolist()
    for name in ("attentions", "hidden_states"):
        for mine, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            for a, b in zip(mine, other, strict=True):
                scale = max(1.0, float(abs(b).max()))
                np.testing.assert_allclose(a / scale, b.numpy() / scale, atol=5e-6)


def done(_: Seen) -> None:
    """Nothing to see but that it ran."""


def replaced(number: int, *pairs: tuple[str, str]) -> str:
    """A cell with parts of it replaced."""
    return document_reader.replaced(CELLS[number], dict(pairs))


SETUP, LOADING, ARCHITECTURE, GENERATING, ATTENTION, HIDDEN, SUMMARY = HEADINGS
RUN = f"gpt2np stats '{PROMPT}' --model {NAME} --max-new-tokens 40 --repetition-penalty 10"


def cell(heading: str, number: int, ours: str, check, note: str = "") -> Step:
    """A cell as a step."""
    return Step(heading, CELLS[number], ours, check, note, "python")


STEPS = [
    cell(SETUP, 1, "import gpt2np\nimport numpy as np\n", done),
    cell(SETUP, 2, "# greedy decoding draws nothing; `seed=` of generate", done, "`--seed`, `seed=`"),
    cell(LOADING, 3, 'name = "EleutherAI/gpt-neo-125M"\n', done, "there is no GPU"),
    cell(
        LOADING,
        4,
        "model = gpt2np.load(name)\ntokenizer = model.tokenizer\n",
        done,
        "what is recorded is said when it runs, by `keep=`",
    ),
    cell(
        ARCHITECTURE,
        5,
        replaced(
            5,
            ("config.model_type", "config.architecture.model_type"),
            ("sum(p.numel() for p in model.parameters())", "model.n_parameters"),
        ),
        printed(5),
        "also `gpt2np info`",
    ),
    cell(
        GENERATING,
        6,
        replaced(6, ('tokenizer(prompt, return_tensors="pt").to(device)', "tokenizer.encode(prompt)")),
        done,
    ),
    cell(GENERATING, 7, 'print(f"\\nPrompt tokens: {len(inputs)}")\n', printed(7)),
    cell(
        GENERATING,
        8,
        'output = model.generate(inputs, max_new_tokens=40, repetition_penalty=10.0, keep="*").finish()\n',
        chosen,
        "greedy unless a temperature is given; `do_sample=False` and the like are answered with what to do",
    ),
    cell(
        GENERATING,
        9,
        replaced(9, ("tokenizer.decode(output.sequences[0], skip_special_tokens=True)", "output.text")),
        printed(9),
    ),
    cell(
        GENERATING,
        10,
        replaced(10, ("len(inputs['input_ids'][0])", "len(inputs)")),
        printed(10),
        "or `output.response.token_ids`",
    ),
    *(cell(ATTENTION, n, CELLS[n], printed(n)) for n in (11, 12, 13, 14)),
    cell(ATTENTION, 15, replaced(15, ("dim=-1", "axis=-1")), printed(15)),
    cell(HIDDEN, 16, CELLS[16], printed(16)),
    cell(
        HIDDEN,
        17,
        replaced(17, ("hidden.std()", "hidden.std(ddof=1)")),
        printed(17),
        "torch's `std` divides by n - 1, NumPy's by n unless told",
    ),
    cell(
        HIDDEN,
        18,
        replaced(
            18,
            ("torch.norm(input_repr, p=2).item()", "np.linalg.norm(input_repr)"),
            ("torch.norm(output_repr, p=2).item()", "np.linalg.norm(output_repr)"),
            (
                "torch.nn.functional.cosine_similarity(\n    input_repr.unsqueeze(0),\n"
                "    output_repr.unsqueeze(0)\n).item()",
                "input_repr @ output_repr / (input_norm * output_norm)",
            ),
        ),
        printed(18),
        "or `gpt2np.analysis.statistics.layer_comparison`",
    ),
    cell(
        SUMMARY,
        19,
        replaced(19, ("{model}", "{model.name}"), ("len(inputs['input_ids'][0])", "len(inputs)")),
        summary,
    ),
    Step(SUMMARY, "every cell", f"{RUN} --notebook", all_printed, "all that the cells print, line by line"),
    Step(
        SUMMARY,
        "every cell, of a generation that is kept",
        f"gpt2np generate '{PROMPT}' --model {NAME} --max-new-tokens 40 --repetition-penalty 10 "
        "--out baseline.safetensors",
        done,
        "one file: arrays, text, and why it stopped",
    ),
    Step(SUMMARY, "every cell", "gpt2np stats --trace baseline.safetensors --notebook", all_printed),
    Step(SUMMARY, "every cell, and more by step", RUN, done, "`gpt2np stats` without `--notebook`"),
]
