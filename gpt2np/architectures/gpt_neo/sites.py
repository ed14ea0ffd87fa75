"""The sites of GPT-Neo, in the order of execution, and how the derived ones are computed."""

from gpt2np.tracing import derived, site_rows
from gpt2np.tracing.derived import Derived
from gpt2np.tracing.sites import SiteTable

_BLOCK = "transformer.h.{i}"
_ATTENTION = f"{_BLOCK}.attn.attention"

SITES = SiteTable(
    (
        site_rows.token_embedding(hf="transformer.wte", tl="hook_embed"),
        site_rows.position_embedding(hf="transformer.wpe", tl="hook_pos_embed"),
        site_rows.embedding_sum(hf="transformer.drop"),
        site_rows.resid_pre(),
        *site_rows.layer_norm_rows("ln_1", "resid_pre", "blocks.{i}.ln1.hook_normalized"),
        site_rows.ln_1(hf=f"{_BLOCK}.ln_1"),
        site_rows.query(hf=f"{_ATTENTION}.q_proj"),
        site_rows.key(hf=f"{_ATTENTION}.k_proj"),
        site_rows.value(hf=f"{_ATTENTION}.v_proj"),
        site_rows.scores("Dot products of queries and keys, not scaled; -inf where the query does not look."),
        site_rows.pattern(),
        site_rows.z(),
        site_rows.heads(
            "Each head's output vector: its result times its rows of out_proj, without the bias."
        ),
        site_rows.attention_out(
            "What attention writes to the residual stream: all heads' outputs plus a bias.",
            hf=f"{_BLOCK}.attn {_ATTENTION} {_ATTENTION}.out_proj",
        ),
        site_rows.resid_mid(),
        *site_rows.layer_norm_rows("ln_2", "resid_mid", "blocks.{i}.ln2.hook_normalized"),
        site_rows.ln_2(hf=f"{_BLOCK}.ln_2"),
        site_rows.mlp_pre(hf=f"{_BLOCK}.mlp.c_fc"),
        site_rows.mlp_post(hf=f"{_BLOCK}.mlp.act"),
        site_rows.mlp_out(hf=f"{_BLOCK}.mlp {_BLOCK}.mlp.c_proj"),
        site_rows.resid_post(hf=_BLOCK),
        *site_rows.layer_norm_rows("ln_f", "the last resid_post", "ln_final.hook_normalized", layered=False),
        site_rows.ln_f(hf="transformer.ln_f"),
        site_rows.logits(),
        *site_rows.of_logits(),
    )
)

DERIVED: dict[str, Derived] = {
    "resid_pre": derived.RESID_PRE,
    **derived.layer_norm_statistics_of("ln_1"),
    "attn.heads": derived.head_outputs_by(lambda p, layer: p.h[layer].attn.out_proj.weight),
    **derived.layer_norm_statistics_of("ln_2"),
    **derived.layer_norm_statistics_of("ln_f"),
    **derived.OF_LOGITS,
}
