"""The sites of Gemma-2, in the order of execution, and how the derived ones are computed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np

from gpt2np.architectures.gemma2.config import Config
from gpt2np.errors import TraceError
from gpt2np.ops import Array, capped, capped_scores, unembedding
from gpt2np.ops.norms import factor, held
from gpt2np.ops.readable_parameters import as_held
from gpt2np.tracing import derived, site_rows
from gpt2np.tracing.contract import Identity
from gpt2np.tracing.derived import Derived, Recorded, at, head_outputs
from gpt2np.tracing.sites import Site, SiteTable, names_of

if TYPE_CHECKING:
    from gpt2np.tracing.trace import Trace

_L = "model.layers.{i}"
_TL = "blocks.{i}"
WIDE, HEADS, GROUPS, NEURONS = "pos n_embd", "pos head d_head", "pos kv_head d_head", "pos d_mlp"

SITES = SiteTable(
    (
        Site("wte", WIDE, "Token embedding: the token's row of the table, not yet scaled.", layered=False),
        Site(
            "embed",
            WIDE,
            "wte times the root of n_embd: the residual stream as it enters block 0.",
            names_of(hf="model.embed_tokens", tl="hook_embed"),
            layered=False,
        ),
        site_rows.resid_pre(),
        *site_rows.rms_norm_rows("ln_1", "resid_pre", f"{_TL}.ln1.hook_normalized"),
        site_rows.ln_1(hf=f"{_L}.input_layernorm"),
        site_rows.query(hf=f"{_L}.self_attn.q_proj"),
        site_rows.key(GROUPS, hf=f"{_L}.self_attn.k_proj"),
        site_rows.value(GROUPS, hf=f"{_L}.self_attn.v_proj"),
        Site(
            "attn.q_rot",
            HEADS,
            "The query turned by its position: what each position looks for, seen from where it stands.",
            names_of(tl=f"{_TL}.attn.hook_rot_q"),
        ),
        Site(
            "attn.k_rot",
            GROUPS,
            "The key turned by its position; with attn.v, what later positions read.",
            names_of(tl=f"{_TL}.attn.hook_rot_k"),
        ),
        Site(
            "attn.scores_raw",
            "head query key",
            "Scaled dot products of turned queries and keys, before the soft cap; -inf where not seen.",
            derived=True,
            unseen=float("-inf"),
        ),
        site_rows.scores("Scaled dot products after the soft cap, before softmax; -inf where not seen."),
        site_rows.pattern(),
        site_rows.z(),
        Site(
            "attn.proj",
            WIDE,
            "All heads' results together, brought to the width of the stream, before the norm that follows.",
            names_of(hf=f"{_L}.self_attn {_L}.self_attn.o_proj"),
        ),
        *site_rows.rms_norm_rows("ln_1_post", "attn.proj", f"{_TL}.ln1_post.hook_normalized"),
        Site(
            "attn.heads",
            "pos head n_embd",
            "Each head's share of attn.out, the norm's scale held as in the run; they sum to attn.out.",
            derived=True,
        ),
        site_rows.attention_out(
            "What attention writes to the residual stream: attn.proj normalised.",
            hf=f"{_L}.post_attention_layernorm",
        ),
        site_rows.resid_mid(),
        *site_rows.rms_norm_rows("ln_2", "resid_mid", f"{_TL}.ln2.hook_normalized"),
        site_rows.ln_2(hf=f"{_L}.pre_feedforward_layernorm"),
        Site(
            "mlp.pre",
            NEURONS,
            "The gates of the MLP's neurons before their activation function.",
            names_of(hf=f"{_L}.mlp.gate_proj", tl=f"{_TL}.mlp.hook_pre"),
        ),
        Site(
            "mlp.act",
            NEURONS,
            "The gates of the MLP's neurons after their activation function: how far each is open.",
            names_of(hf=f"{_L}.mlp.act_fn"),
            captures=("mlp/gelu",),
        ),
        Site(
            "mlp.up",
            NEURONS,
            "What each neuron of the MLP would write if its gate were open.",
            names_of(hf=f"{_L}.mlp.up_proj", tl=f"{_TL}.mlp.hook_pre_linear"),
            captures=("mlp/up_proj",),
        ),
        Site(
            "mlp.post",
            NEURONS,
            "The MLP's neurons, gate times up: which features are active, and how much.",
            names_of(tl=f"{_TL}.mlp.hook_post"),
        ),
        Site(
            "mlp.proj",
            WIDE,
            "What all neurons of the MLP add up to, before the norm that follows.",
            names_of(hf=f"{_L}.mlp {_L}.mlp.down_proj"),
            captures=("mlp/down_proj",),
        ),
        *site_rows.rms_norm_rows("ln_2_post", "mlp.proj", f"{_TL}.ln2_post.hook_normalized"),
        Site(
            "mlp.out",
            WIDE,
            "What the MLP writes to the residual stream: mlp.proj normalised.",
            names_of(hf=f"{_L}.post_feedforward_layernorm", tl=f"{_TL}.hook_mlp_out"),
        ),
        site_rows.resid_post(hf=_L),
        *site_rows.rms_norm_rows("ln_f", "the last resid_post", "ln_final.hook_normalized", layered=False),
        site_rows.ln_f(hf="model.norm"),
        Site(
            "logits_raw",
            "pos vocab",
            "The logits before the soft cap: linear in ln_f.",
            names_of(hf="lm_head", tl="unembed.hook_out"),
            layered=False,
            derived=True,
        ),
        site_rows.logits(hf="logits", tl=""),
        *site_rows.of_logits(),
    )
)


def _scores_raw(trace: Recorded, layer: int) -> Array:
    if len(trace.positions) < len(trace.token_ids):
        raise TraceError(
            f"h.{layer}.attn.scores_raw needs the keys of every position, and some were not kept"
        )
    q, k = trace[f"h.{layer}.attn.q_rot"], trace[f"h.{layer}.attn.k_rot"]
    config = trace.config
    out = np.empty((q.shape[1], len(q), len(k)), q.dtype)
    capped_scores(q, k, config.attention_scale(layer), None, config.window(layer), out=out)
    return out


def _heads(trace: Recorded, layer: int) -> Array:
    p = trace.parameters("attn.heads").h[layer]
    heads = head_outputs(trace[f"h.{layer}.attn.z"], p.attn.o_proj)
    return held(heads, p.ln_1_post, factor(heads.sum(axis=1), p.ln_1_post)[:, None])


def _logits_raw(trace: Recorded, _: None) -> Array:
    table, x = as_held(trace.parameters("logits_raw")).lm_head, trace["ln_f"]
    out = np.empty((len(x), len(table)), x.dtype)
    unembedding(x, table, out=out)
    return out


DERIVED: dict[str, Derived] = {
    "resid_pre": derived.RESID_PRE,
    **derived.rms_statistics_of("ln_1"),
    "attn.scores_raw": Derived((at("attn.q_rot"), at("attn.k_rot")), _scores_raw),
    **derived.rms_statistics_of("ln_1_post", at("attn.proj")),
    "attn.heads": Derived((at("attn.z"),), _heads, needs_weights=True),
    **derived.rms_statistics_of("ln_2"),
    **derived.rms_statistics_of("ln_2_post", at("mlp.proj")),
    **derived.rms_statistics_of("ln_f"),
    "logits_raw": Derived((at("ln_f"),), _logits_raw, needs_weights=True),
    **derived.OF_LOGITS,
}


# -- what holds beside the lines of the forward pass -----------------------------------------------------


def holds(trace: "Trace", name: str, kind: str, layer: int | None) -> Iterator[Identity]:
    """Turning changes no length; nothing passes its cap; and the logits are the capped `logits_raw`."""
    config = cast(Config, trace.config)
    caps = {"attn.scores": config.attn_logit_softcapping, "logits": config.final_logit_softcapping}

    def lengths(before: str) -> tuple[Array, Array]:
        return np.linalg.norm(trace[name], axis=-1), np.linalg.norm(trace[before], axis=-1)

    def bounded(cap: float) -> tuple[Array, Array]:
        seen = trace[name][np.isfinite(trace[name])]
        return seen, np.clip(seen, -cap, cap)

    def capped_logits() -> tuple[Array, Array]:
        raw = trace["logits_raw"]
        expected = np.empty_like(raw)
        capped(raw, caps["logits"], out=expected)
        return trace[name], expected

    if kind in ("attn.q_rot", "attn.k_rot"):
        before = name.removesuffix("_rot")
        yield Identity(f"|{name}| = |{before}|, head by head", (name, before), False, lambda: lengths(before))
    cap = caps.get(kind)
    if cap is not None:
        yield Identity(f"|{name}| is at most {cap:g}", (name,), False, lambda: bounded(cap))
    if kind == "logits":
        yield Identity(f"{name} = capped(logits_raw)", (name, "logits_raw"), True, capped_logits)
