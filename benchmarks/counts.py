"""What a piece of work takes at least: floating-point operations, and bytes that must pass through memory.

With T rows (tokens), L layers, width d, MLP width m, vocabulary V, all float32, for one pass:

- blocks: every weight of the four matrices meets every row once, 2 T L (3dd + dd + dm + md) FLOPs;
- attention: a query meets only the keys up to itself, P = sum over queries of (past + its place) pairs, and
  each pair costs 2d for its score and 2d for its share of the mix, over all heads together: 4 d P L FLOPs;
- unembedding: 2 d V FLOPs for each row whose logits are asked for;
- read: all weights of the blocks and the final norm, the table [V, d], the T rows of both embeddings, and
  when decoding keys and values of the past, 2 d L a token;
- written: the arrays that the trace keeps (the byte plan).

Elementwise work (norms, GELU, softmax), reading back what was just written and the masked half of attention
are not counted: these are lower bounds.
"""

from dataclasses import dataclass

from gpt2np.architectures.gpt2.config import Config
from gpt2np.tracing.plan import Plan

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Count:
    """One pass: `rows` tokens go through the blocks, `unembed_rows` of them through the unembedding."""

    rows: int
    unembed_rows: int
    block_flops: int
    attention_flops: int
    unembed_flops: int
    read_bytes: int
    written_bytes: int = 0

    @property
    def flops(self) -> int:
        """All of them."""
        return self.block_flops + self.attention_flops + self.unembed_flops


def weight_bytes(config: Config) -> int:
    """Bytes of all parameters."""
    return FLOAT * config.n_parameters


def one_pass(
    config: Config,
    lengths: list[int],
    *,
    past: int | list[int] = 0,
    unembed_rows: int | None = None,
    written: int = 0,
) -> Count:
    """A pass over packed prompts of these lengths, each after `past` cached tokens (a list: one number each).

    Logits of all rows, or of `unembed_rows` of them.
    """
    pasts = past if isinstance(past, list) else [past] * len(lengths)
    d, m, n_layer = config.n_embd, config.d_mlp, config.n_layer
    rows = sum(lengths)
    unembed_rows = rows if unembed_rows is None else unembed_rows
    pairs = sum(n * before + n * (n + 1) // 2 for n, before in zip(lengths, pasts, strict=True))
    parts = config.parameters_by_component()
    weights = parts["attention"] + parts["mlp"] + parts["layer norms"]
    weights += config.vocab_size * d if unembed_rows else 0
    cache = 2 * d * n_layer * sum(pasts)
    return Count(
        rows=rows,
        unembed_rows=unembed_rows,
        block_flops=2 * rows * n_layer * (4 * d * d + 2 * d * m),
        attention_flops=4 * d * pairs * n_layer,
        unembed_flops=2 * d * config.vocab_size * unembed_rows,
        read_bytes=FLOAT * (weights + 2 * rows * d + cache),
        written_bytes=written,
    )


def decoding_steps(config: Config, lengths: list[int], new: int, traced: bool = False) -> list[Count]:
    """The passes of one row a prompt that make tokens 2 to `new` after prompts of these lengths."""
    written = 0
    if traced and new > 1:
        grown = sum(Plan(config, n + new - 1).nbytes - Plan(config, n).nbytes for n in lengths)
        written = grown // (new - 1)
    return [
        one_pass(config, [1] * len(lengths), past=[n + i for n in lengths], written=written)
        for i in range(new - 1)
    ]


def passes(config: Config, method: str, lengths: list[int], arguments: dict) -> list[Count]:
    """The passes of a job, as an engine's method does it; none where nothing is computed."""
    if method in ("trace", "steps"):
        keep = arguments.get("keep", "*")
        plans = [Plan(config, n, keep) for n in lengths]
        all_logits = "logits" in plans[0].by_name
        written = sum(plan.nbytes for plan in plans)
        return [one_pass(config, lengths, unembed_rows=None if all_logits else len(lengths), written=written)]
    if method == "logits":
        return [one_pass(config, lengths, written=FLOAT * sum(lengths) * config.vocab_size)]
    if method == "last":
        return [one_pass(config, lengths, unembed_rows=1)]
    if method in ("decode", "beams"):
        traced = arguments.get("traced", False)
        written = sum(Plan(config, n).nbytes for n in lengths) if traced else 0
        rows = None if traced else len(lengths)
        first = one_pass(config, lengths, unembed_rows=rows, written=written)
        beams = lengths * arguments.get("beams", 1)
        return [first, *decoding_steps(config, beams, arguments["new"], traced)]
    return []
