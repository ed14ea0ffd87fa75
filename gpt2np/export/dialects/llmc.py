"""llm.c's names for a trace: its struct ActivationTensors."""

from gpt2np.export.dialects.naming import MERGED_HEADS, SAME, ZERO_FUTURE, Item, Naming
from gpt2np.tracing.config import Config
from gpt2np.tracing.sites import SITES

# The order of llm.c's ActivationTensors, which is not that of execution: means follow what they belong to.
LLMC_ORDER = """encoded ln1 ln1_mean ln1_rstd qkv atty preatt att attproj residual2 ln2 ln2_mean ln2_rstd
fch fch_gelu fcproj residual3 lnf lnf_mean lnf_rstd logits probs losses""".split()


def llmc(config: Config) -> Naming:
    """llm.c's ActivationTensors, stacked over layers, with a batch of 1 behind the layers."""
    sites = {site.names["llm.c"][0]: site for site in SITES if "llm.c" in site.names}
    forms = {"atty": MERGED_HEADS, "preatt": ZERO_FUTURE}
    naming = Naming()
    for name in LLMC_ORDER:
        site = sites[name]
        naming.add(Item(name, site, None, forms.get(name, SAME), batch=True, stacked=site.layered))
    return naming
