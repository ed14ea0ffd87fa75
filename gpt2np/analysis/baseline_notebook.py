"""What the baseline notebook "Transformer Internals" prints, for the model at hand and in its own layout.

Its GPT-Neo may be any model here. Two slips of it are kept because they are in its printed results: "Layer 11
norm" is of the last hidden state, which is after block 11 and ln_f, and the table of hidden states ends
before it. One is not: its summary's "Model" prints the whole module, since a variable was used twice; here
it is the model's name.
"""

from collections.abc import Callable

from gpt2np.analysis.statistics import (
    EVERY,
    HIDDEN,
    Run,
    attention_statistics,
    hidden_state_statistics,
    layer_comparison,
    n_generated,
    steps,
    trace_of,
    verdict,
)
from gpt2np.errors import InputError
from gpt2np.generation.generated import Generated
from gpt2np.generation.saved_generation import is_whole_generation, saved_generation


def architecture(run: Run) -> str:
    """Section 3: the model's sizes."""
    trace = trace_of(run)
    c, model = trace.config, trace.model
    counted = trace.metadata.get("n_parameters") if model is None else model.n_parameters
    n_parameters = c.n_parameters if counted is None else counted
    return f"""Model Architecture:
  Model type: {c.architecture.model_type}
  Number of layers: {c.n_layer}
  Number of attention heads: {c.n_head}
  Hidden size: {c.n_embd}
  Vocabulary size: {c.vocab_size}
  Max position embeddings: {c.n_positions}

Total parameters: {n_parameters:,}"""


def text_of(run: Run) -> str:
    """Prompt and response; of a trace of version 0.1.0 without the last token, which it does not have."""
    if isinstance(run, Generated):
        return run.text
    if is_whole_generation(run):
        return saved_generation(run).text
    return "".join(run.tokens) if run.prompt is None or n_generated(run) else run.prompt


def generation(run: Run) -> str:
    """Section 4: the number of tokens, and the text."""
    kind = "Generated text" if n_generated(run) else "Text"
    return f"""Prompt tokens: {len(steps(run)[0])}
New tokens: {n_generated(run)}
{kind}:

{text_of(run)}"""


def shapes(run: Run, step: int = 0) -> str:
    """Return sections 5 and 6: how many tensors there are, and their shapes with the batch axis of HF."""
    trace, all_steps = trace_of(run), steps(run)
    c, positions = trace.config, all_steps[step]
    layers = list(dict.fromkeys([0, c.n_layer // 2, c.n_layer - 1]))
    attention = [1, c.n_head, len(positions), positions.stop]
    hidden = [1, len(positions), c.n_embd]
    lines = [
        f"Number of layers per step: {c.n_layer}",
        f"  Number of generation steps: {len(all_steps)}",
        f"\nAttention shapes for {_step(step)}:",
        *(f"  Layer {i:2d}: {attention}" for i in layers),
        f"\nHidden state shapes for {_step(step)}, {c.n_layer + 1} layers:",
        *(f"  Layer {i:2d}: {hidden}" for i in layers),
    ]
    return "\n".join(lines)


def attention_values(run: Run, step: int = 0, layer: int = 0) -> str:
    """Section 5: range and mean of one layer's attention, and of the sums of its rows."""
    v = attention_statistics(run).array[step, layer]
    return f"""Attention Statistics (Layer {layer}, {_step(step).title()}):
  Min value: {v[0]:.6f}
  Max value: {v[1]:.6f}
  Mean value: {v[2]:.6f}

Attention weight sums (should be ~1.0):
  Min sum: {v[3]:.6f}
  Max sum: {v[4]:.6f}
  Mean sum: {v[5]:.6f}"""


def hidden_values(run: Run, step: int = 0, every: int = EVERY) -> str:
    """Section 6: mean, standard deviation and range of every third hidden state.

    Raises:
        InputError: `every` is below 1.
    """
    if every < 1:
        raise InputError(f"every={every}: from one layer to the next it is at least 1")
    table = hidden_state_statistics(run).array[step]
    lines = [
        f"Hidden State Statistics Across Layers ({_step(step).title()}):",
        f"\nLayer | {HIDDEN[0].title():8s} | {HIDDEN[1].title():8s} | {'Min':9s} | Max",
        "-" * 55,
    ]
    for layer in range(0, trace_of(run).config.n_layer, every):
        mean, std, low, high = table[layer]
        lines.append(f"{layer:5d} | {mean:8.4f} | {std:8.4f} | {low:9.4f} | {high:8.4f}")
    return "\n".join(lines)


def comparison(run: Run, step: int = 0, pos: int = -1) -> str:
    """Section 6: the first hidden state of a position against the last."""
    first, last, cosine = layer_comparison(run, step, pos).array
    where = "Last Token" if pos == -1 else f"Token {pos % len(steps(run)[step])}"
    return f"""Input vs. Output Layer Comparison ({where}):
  Layer 0 norm: {first:.4f}
  Layer {trace_of(run).config.n_layer - 1} norm: {last:.4f}
  Cosine similarity: {cosine:.4f}
  Interpretation: {verdict(cosine)}"""


def summary(run: Run, shown: Callable[[list[int]], str] = str) -> str:
    """Section 7: the model, the generation and what was captured of it, its shapes as `shown` says."""
    trace, all_steps = trace_of(run), steps(run)
    c, n_prompt = trace.config, len(all_steps[0])
    return f"""Model: {trace.metadata.get("model")}
  Layers: {c.n_layer}
  Heads per layer: {c.n_head}
  Hidden size: {c.n_embd}

Generation:
  Prompt tokens: {n_prompt}
  Generated tokens: {n_generated(run)}
  Total generation steps: {len(all_steps)}

Captured Internals:
  Attention tensors per step: {c.n_layer} layers
  Hidden state tensors per step: {c.n_layer + 1} layers
  Attention shape: {shown([1, c.n_head, n_prompt, n_prompt])}
  Hidden state shape: {shown([1, n_prompt, c.n_embd])}"""


def notebook(run: Run) -> str:
    """Return what the notebook's cells print about a generation, in its words, line by line.

    "Model", where it prints the whole module, is the model's name.

    Raises:
        TraceError: attention or hidden states were not kept.
    """
    config, n_prompt = trace_of(run).config, len(steps(run)[0])
    attention, hidden = [1, config.n_head, n_prompt, n_prompt], [1, n_prompt, config.n_embd]
    n_steps = f"  Number of generation steps: {len(steps(run))}"
    return f"""{architecture(run)}

Prompt tokens: {n_prompt}
Generated text:

{text_of(run)}
New tokens: {n_generated(run)}
Number of layers per step: {config.n_layer}
{n_steps}
Attention shape (layer 0): {_torch(attention)}

Attention shapes for {_step(0)}:
{_shape_of_layers(run, attention)}
{attention_values(run)}
{n_steps}
  Number of layers per step: {config.n_layer + 1}

First generation step, layer 0:
  Shape: {_torch(hidden)}
  Format: [batch_size, seq_len, hidden_size]
  Interpretation: [1, sequence_length, {config.n_embd}]

Hidden state shapes for {_step(0)}:
{_shape_of_layers(run, hidden)}
{hidden_values(run)}

{comparison(run)}

{summary(run, _torch)}"""


def _torch(shape: list[int]) -> str:
    """A shape as torch prints it."""
    return f"torch.Size({shape})"


def _shape_of_layers(run: Run, shape: list[int]) -> str:
    """The shape of the first, the middle and the last layer, as the notebook lists it."""
    n_layer = trace_of(run).config.n_layer
    return "\n".join(f"  Layer {i:2d}: {_torch(shape)}" for i in (0, n_layer // 2, n_layer - 1))


def _step(step: int) -> str:
    return "first generation step" if step == 0 else f"generation step {step}"
