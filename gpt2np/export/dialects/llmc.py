"""llm.c's names for a trace: its struct ActivationTensors."""

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.export.dialects.naming import MERGED_HEADS, SAME, Form, Item, Naming
from gpt2np.ops import Array, unseen
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.plan import Plan

# The order of llm.c's ActivationTensors, which is not that of execution: means follow what they belong to.
LLMC_ORDER = """encoded ln1 ln1_mean ln1_rstd qkv atty preatt att attproj residual2 ln2 ln2_mean ln2_rstd
fch fch_gelu fcproj residual3 lnf lnf_mean lnf_rstd logits probs losses""".split()


def _future(plan: Plan) -> Array:
    """Where the key comes after the query: bool [query, key]."""
    return unseen(plan.positions, plan.length, None)


ZERO_FUTURE = Form(
    lambda x, plan: np.where(_future(plan), x.dtype.type(0), x),
    lambda x, plan: np.where(_future(plan), x.dtype.type(-np.inf), x),
)


def llmc(config: ModelConfig) -> Naming:
    """llm.c's ActivationTensors, stacked over layers, with a batch of 1 behind the layers."""
    gpt2_only(config, "names of llm.c")
    table = config.architecture.sites
    sites = {site.names["llm.c"][0]: site for site in table if "llm.c" in site.names}
    forms = {"atty": MERGED_HEADS, "preatt": ZERO_FUTURE}
    naming = Naming()
    for name in LLMC_ORDER:
        site = sites[name]
        naming.add(Item(name, site, None, forms.get(name, SAME), batch=True, stacked=site.layered))
    return naming
