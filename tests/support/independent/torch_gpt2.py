"""GPT-2 in torch: a batch axis, heads first, a matrix each for q, k and v. It knows nothing of gpt2np.

Written from Hugging Face's description of the checkpoint, in the manner of a `nn.Module` whose submodules are
hooked; `HOOKS` says what the names are elsewhere. A mistake is a method that is replaced: `replace`.
"""

import math

import torch
from torch.nn import functional as F

# Hooked outputs in the order in which they come, and what they are elsewhere: a map for `--map`.
HOOKS = {
    "model/tokens": "wte",
    "model/places": "wpe",
    "model/input": "embed",
    "unit*/pre/unit_variance": "h.*.ln_1.normalized",
    "unit*/pre": "h.*.ln_1",
    "unit*/att/query": "h.*.attn.q",
    "unit*/att/key": "h.*.attn.k",
    "unit*/att/value": "h.*.attn.v",
    "unit*/att/energy": "h.*.attn.scores",
    "unit*/att/alpha": "h.*.attn.pattern",
    "unit*/att/context": "h.*.attn.z",
    "unit*/att/projected": "h.*.attn.out",
    "unit*/between": "h.*.resid_mid",
    "unit*/second/unit_variance": "h.*.ln_2.normalized",
    "unit*/second": "h.*.ln_2",
    "unit*/ff/wide": "h.*.mlp.pre",
    "unit*/ff/bent": "h.*.mlp.post",
    "unit*/ff/narrow": "h.*.mlp.out",
    "unit*": "h.*.resid_post",
    "model/closing/unit_variance": "ln_f.normalized",
    "model/closing": "ln_f",
    "model/vocabulary": "logits",
    "model/chances": "probabilities",
}
FEW = ("model/input", "unit*/pre", "unit*/att/projected", "unit*/second", "unit*/ff/narrow", "unit*",
       "model/vocabulary")  # fmt: skip  # outputs of modules only


class TorchGPT2:
    """Token ids [batch, pos] in, every hooked output [batch, ...] out."""

    def __init__(self, weights, heads, epsilon=1e-5, dtype=torch.float32):
        self.heads, self.epsilon, self.dtype = heads, epsilon, dtype
        self.state = dict(self.converted({n: torch.tensor(a, dtype=dtype) for n, a in weights.items()}))
        self.depth = 1 + max(int(n.split(".")[1]) for n in self.state if n.startswith("h."))
        self.layer = None  # the one that runs
        self.kept = {}

    def converted(self, weights):
        """The checkpoint's [in, out] as `nn.Linear` has it, and c_attn as three of them."""
        for name, tensor in weights.items():
            if ".c_attn." in name:
                for part, third in zip("qkv", tensor.chunk(3, -1), strict=True):
                    yield name.replace("c_attn", part), (third.mT if third.ndim == 2 else third).contiguous()
            else:
                yield name, tensor.mT.contiguous() if name.startswith("h.") and tensor.ndim == 2 else tensor

    def replace(self, method, wrong, layer=None):
        """Let another function stand for a method: in one layer, or wherever it is called."""
        right = getattr(self, method)
        setattr(self, method, lambda *a: (wrong if layer in (None, self.layer) else right)(*a))

    @torch.no_grad()
    def run(self, ids):
        self.kept = {}
        tokens = self.token_ids(torch.as_tensor(ids)[None])
        logits = self.keep("model/vocabulary", self.forward(tokens))
        self.keep("model/chances", self.chances(logits))
        return {name: self.dumped(name, tensor) for name, tensor in self.kept.items()}

    def dumped(self, name, tensor):
        return tensor

    def token_ids(self, tokens):
        return tokens

    def keep(self, name, tensor):
        name = name if self.layer is None else f"unit{self.layer}{name}"
        self.kept[name] = tensor.clone()
        return tensor

    def forward(self, tokens):
        token = self.keep("model/tokens", self.lookup(tokens))
        place = self.keep("model/places", self.places(torch.arange(tokens.shape[1])))
        x = self.first = self.keep("model/input", self.input(token, place))
        for layer in self.order():
            self.layer = layer
            x = self.keep("", self.unit(self.given(x)))
        self.layer = None
        x = self.keep("model/closing", self.closing(x))
        return self.vocabulary(x)

    def order(self):
        return range(self.depth)

    def given(self, x):
        """What a block is given."""
        return x

    # -- the ends ---------------------------------------------------------------------------------

    def lookup(self, tokens):
        return F.embedding(tokens, self.state["wte.weight"])

    def places(self, positions):
        return F.embedding(positions, self.state["wpe.weight"])[None]

    def input(self, token, place):
        return token + place

    def closing(self, x):
        normed = self.keep("model/closing/unit_variance", self.standard(x))
        return normed * self.state["ln_f.weight"] + self.state["ln_f.bias"]

    def vocabulary(self, x):
        return F.linear(x, self.state["lm_head.weight"])

    def chances(self, logits):
        return logits.softmax(-1)

    # -- a block ----------------------------------------------------------------------------------

    def w(self, name):
        return self.state[f"h.{self.layer}.{name}"]

    def unit(self, x):
        a = self.keep("/pre", self.pre(x))
        y = self.keep("/att/projected", self.attend(a))
        m = self.keep("/between", self.after_attention(x, a, y))
        b = self.keep("/second", self.second(m))
        return self.after_ff(m, b, self.keep("/ff/narrow", self.ff(b)))

    def after_attention(self, x, normed, y):
        return x + y

    def after_ff(self, x, normed, y):
        return x + y

    def pre(self, x):
        return self.affine_norm(self.keep("/pre/unit_variance", self.standard(x)), "ln_1")

    def second(self, x):
        return self.affine_norm(self.keep("/second/unit_variance", self.standard(x)), "ln_2")

    def affine_norm(self, x, name):
        return x * self.w(name + ".weight") + self.w(name + ".bias")

    def standard(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.epsilon)

    def linear(self, x, name):
        return F.linear(x, self.matrix(name), self.bias(name))

    def matrix(self, name):
        return self.w(name + ".weight")

    def bias(self, name):
        return self.w(name + ".bias")

    # -- attention --------------------------------------------------------------------------------

    def attend(self, a):
        q = self.keep("/att/query", self.query(a))
        k, v = self.keep("/att/key", self.key(a)), self.keep("/att/value", self.value(a))
        energy = self.keep("/att/energy", self.mask(self.energy(q, k)))
        alpha = self.keep("/att/alpha", self.alpha(energy))
        context = self.keep("/att/context", self.context(alpha, v))
        return self.linear(self.joined(context), "attn.c_proj")

    def query(self, a):
        return self.split(self.linear(a, "attn.q"))

    def key(self, a):
        return self.split(self.linear(a, "attn.k"))

    def value(self, a):
        return self.split(self.linear(a, "attn.v"))

    def split(self, x):
        """[batch, head, pos, d]."""
        batch, n, _ = x.shape
        return x.view(batch, n, self.heads, -1).transpose(1, 2)

    def energy(self, q, k):
        return q @ k.mT / self.divisor(q)

    def divisor(self, q):
        return math.sqrt(q.shape[-1])

    def mask(self, energy):
        return energy.masked_fill(self.future(energy.shape[-1]), self.nothing())

    def future(self, n):
        return torch.ones(n, n, dtype=torch.bool).triu(1)

    def nothing(self):
        return -math.inf

    def alpha(self, energy):
        return energy.softmax(-1)

    def context(self, alpha, v):
        return alpha @ v

    def joined(self, context):
        return context.transpose(1, 2).flatten(2)

    # -- mlp --------------------------------------------------------------------------------------

    def ff(self, b):
        bent = self.keep("/ff/bent", self.bend(self.keep("/ff/wide", self.linear(b, "mlp.c_fc"))))
        return self.linear(bent, "mlp.c_proj")

    def bend(self, x):
        return F.gelu(x, approximate="tanh")
