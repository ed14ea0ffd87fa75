# %% [markdown]
# # 3. How tokens talk to each other: attention
# minutes: 60
#
# **Question: how does the second `am` know that `ber` comes next?**
#
# You need lesson 2 and NumPy. Run the cells from top to bottom. Four hold a function that ends in
# `return lessons.todo`: write your own lines there, then run the check below it. It says whether you are
# right, and if you are not, what to ask yourself.

# %%
import numpy as np

import gpt2np
from gpt2np import lessons

model = gpt2np.load("tiny", dtype="float64")
L = "Lord Tamber spoke; and then Lord Tam"
trace = model.trace(L)
tokens = list(trace.tokens)
print(tokens)
for text in (L, " Tam"):
    top = model.trace(text).top(3)
    print(f"after {text!r}:", ", ".join(f"{token!r} {p:.3f}" for token, _, p in top))

assert [round(p, 3) for token, _, p in trace.top(1) if token == "ber"] == [0.976]
assert "ber" not in [token for token, _, _ in top]  # after the last two tokens alone

# %% [markdown]
# ## 1. The model looks back
# After the whole text the model gives `ber` a probability of 0.976. After `·Tam` alone (`·` stands for a
# space), `ber` is not among the first three. So the answer is not in the last two tokens. It must have come
# from further left.
#
# In GPT-2, attention is the only place where a position can learn anything from another one. Each of the four
# layers here has four *heads*. We write 1.0 for layer 1, head 0. At the last token, position 11, head 1.0
# gives each position this share of its attention:

# %%
last_row = trace["h.1.attn.pattern"][0, 11]  # [head, query, key]: one head, one query, twelve keys
lessons.show(lessons.bars(last_row, tokens, "head 1.0 at the last token", percent=True, numbered=True))
assert (last_row.argmax(), round(100 * last_row[4])) == (4, 86)

# %% [markdown]
# It gives 86 % to position 4. That is `ber`, the token that came after the *first* `am`. How does a head
# find that position?
#
# ## 2. Each token gets three vectors
# Before a block's attention, every position has one vector of 192 numbers. A matrix makes 576 out of them,
# in the site `attn.qkv`. They are three vectors for each head:
#
# - the **query**: what this position is looking for,
# - the **key**: what this position can be found by,
# - the **value**: what this position hands over to whoever finds it.
#
# The 576 columns hold, from left to right, the queries of all heads, then the keys of all heads, then the
# values of all heads. In each of these thirds head 0 has the first 48 columns, head 1 the next 48, and so on.

# %%
print(lessons.inputs("attention.split"))
print(f"{trace['h.1.attn.qkv'].shape[1]} = 3 x {model.config.n_embd} = 3 x 4 heads x {model.config.d_head}")
assert (trace["h.1.attn.qkv"].shape[1], model.config.n_embd, model.config.d_head) == (576, 192, 48)

# %% [markdown]
# **Your turn.** Cut `qkv` into queries, keys and values, and each of them into heads. A reshape always
# *works*. What matters is which numbers it puts together.


# %%
def split(qkv, n_head):
    """qkv [pos, 3*n_embd] -> q, k, v, each [pos, head, d_head]."""
    return lessons.todo


# %%
lessons.check("attention.split", split)

# %% [markdown]
# ## 3. One query, twelve keys
# A query and a key are compared with a dot product. Take the query of head 1.0 at the last token, and the
# keys of all twelve positions:

# %%
q, k, v = (trace[f"h.1.attn.{name}"] for name in "qkv")  # each [pos, head, d_head]
products = k[:, 0] @ q[11, 0]  # [key]
lessons.show(lessons.bars(products, tokens, "one query times twelve keys", numbered=True))
assert products.argmax() == 4
assert np.round(products[[4, 0]], 1).tolist() == [42.4, 27.1]

# %% [markdown]
# The key of `ber` wins with 42.4. Position 0 is next with 27.1. No other comes near.
#
# ## 4. Why divide by a square root?
# To turn products into shares, attention takes the exponential of each and divides by their sum (softmax).
# That makes differences large. With the products as they are, and with the products divided by the square
# root of 48, this happens:


# %%
def shares(x):
    e = np.exp(x - x.max())
    return e / e.sum()


root = np.sqrt(48)
raw, scaled = shares(products), shares(products / root)
for name, row in (("as they are", raw), ("divided", scaled)):
    print(f"{name:12}", " ".join(f"{share:.3f}" for share in row))
less = np.eye(12)[4]  # 1 less for ber
after = [round(shares(x - less)[4], 3) for x in (products, products / root)]
print(
    f"ber with 1 less: as they are {raw[4]:.3f} -> {after[0]:.3f}, divided {scaled[4]:.3f} -> {after[1]:.3f}"
)
pairs = q[:, 0] @ k[:, 0].T  # [query, key]: every query of head 1.0 with every key
print(f"spread of all products in head 1.0: {pairs.std():.1f}, divided: {(pairs / root).std():.1f}")

rng = np.random.default_rng(0)
spreads = []
for n in (12, 48, 192):  # 10,000 products of two vectors of n random numbers
    one, other = rng.normal(size=(2, 10_000, n))
    spreads.append(round((one * other).sum(axis=1).std(), 1))
    print(f"random vectors of {n:3} numbers: spread {spreads[-1]:4.1f}, root of {n:3} is {np.sqrt(n):4.1f}")

assert spreads == [3.5, 7.0, 14.0]
assert [round(raw[4], 3), round(scaled[4], 3), *after] == [1.0, 0.856, 1.0, 0.686]
assert [round(pairs.std(), 1), round((pairs / root).std(), 1)] == [14.5, 2.1]

# %% [markdown]
# A product of two vectors is a sum of as many terms as they have numbers. If the terms are independent, as in
# random vectors, the spread of such a sum grows with the square root of their number: 3.5, 7.0 and 14.0.
# Dividing by that root keeps it the same, however long the vectors are. In head 1.0 it goes from 14.5 to 2.1.
#
# Why does it matter? Undivided, the winner takes 1.000 here, and all others 0.000. Such a softmax hardly
# changes when a product does (with 1 less, the winner still has 1.000): a model in training has nothing to
# learn from. Divided, the winner has 0.856, and 0.686 with 1 less: the others still count.
#
# ## 5. No looking ahead
# The model is asked for the next token at every position at once. A position that could look to its right
# would see the answer. So the scores of all keys to the right of the query are set to minus infinity: their
# exponential is 0. A position does see itself.
#
# You can tell that this works: change the last token, and everything at the positions before it stays as it
# was, to the last bit (`=`).

# %%
ids = model.token_ids(L)
other = model.trace([*ids[:-1], *model.token_ids("ber")])
for site in ("h.0.resid_post", "h.1.resid_post", "h.3.resid_post"):
    same = [np.array_equal(trace[site][i], other[site][i]) for i in range(12)]
    print(site, "".join("=" if equal else "x" for equal in same))
    assert same == [True] * 11 + [False]

# %% [markdown]
# You will need all heads at once. Here are three tools, tried on two heads with vectors of two numbers. `@`
# multiplies the last two axes of arrays, for each index of those before, so the heads must come first:
# `transpose` puts the axes into another order. `np.einsum` does both: you name the axes of the inputs, and of
# the result; what is not in the result is summed over. And `np.tri` makes a triangle.

# %%
small = np.arange(12).reshape(3, 2, 2)  # [pos, head, number]: three positions, two heads
by_head = small.transpose(1, 0, 2)  # [head, pos, number]
ones = np.ones((2, 2, 1))  # [head, number, 1]: a column for each head
sums = by_head @ ones  # [head, pos, 1]: head by head
print(small.shape, "->", by_head.shape, "@", ones.shape, "->", sums.shape)
print("head 1 alone gives the same:", np.array_equal(sums[1], small[:, 1] @ ones[1]))
by_einsum = np.array_equal(sums[:, :, 0], np.einsum("phn->hp", small))
print(f"and so does einsum: {by_einsum}\n{np.tri(3, dtype=int)}")
assert by_einsum

# %% [markdown]
# **Your turn.** All scores of all heads at once: products of queries and keys, divided by the square root
# that you have just seen, and minus infinity (`-np.inf`) where the key is in the query's future. (A number so
# low that its exponential is 0 anyway, such as `-1e9`, is accepted too.)


# %%
def scores(q, k):
    """q [query, head, d_head], k [key, head, d_head] -> [head, query, key]."""
    return lessons.todo


# %%
lessons.check("attention.scores", scores)

# %% [markdown]
# ## 6. From scores to shares
# The softmax runs along the keys: each query has one whole attention to give away. In this map of head 1.0
# each row is a query, each column a key; the future is left out.

# %%
pattern_10 = trace["h.1.attn.pattern"][0]
seen = np.where(np.tri(12, dtype=bool), pattern_10, np.nan)
how = {"axes": ("query", "key"), "percent": True, "numbered": True}
lessons.show(lessons.heatmap(seen, tokens, tokens, "attention of head 1.0", **how))
print("sums of the rows:", *(f"{total:.3f}" for total in pattern_10.sum(axis=1)))
assert np.allclose(pattern_10.sum(axis=1), 1)
assert [round(100 * pattern_10[i, j]) for i, j in ((0, 0), (10, 3), (11, 4))] == [100, 87, 86]

# %% [markdown]
# The first token sees only itself, so it gives itself 100 %. Most rows have their largest share at position
# 0: the shares must add up to 1, so a head that finds nothing has to put them somewhere. Two rows do not. The
# second `·T` gives 87 % to `am`, and the second `am` gives 86 % to `ber`. Both look at the token
# that came *after* the first token of the same kind. A head that does this is called an **induction head**.
#
# **Your turn.** You get the products, already divided, but with the future still in them. Hide it, and turn
# each row into shares. Your function will also be tried on products that are all far below zero.


# %%
def pattern(products):
    """products [head, query, key], already divided -> [head, query, key], whose rows sum to 1."""
    return lessons.todo


# %%
lessons.check("attention.pattern", pattern)

# %% [markdown]
# ## 7. What attention passes on
# The shares are weights of an average. Each head averages the *values* of the positions that it looks at, and
# the result is called `z`. How near is the `z` of head 1.0 at the last token to the value of each position?
# (The cosine of two vectors is 1 when they point the same way.)

# %%
z = trace["h.1.attn.z"][11, 0]
is_average = np.allclose(z, sum(last_row[i] * v[i, 0] for i in range(12)))
print("z is the average of the values:", is_average)
cosines = v[:, 0] @ z / np.linalg.norm(v[:, 0], axis=1) / np.linalg.norm(z)
lessons.show(lessons.bars(cosines, tokens, "cosine of z and each value", numbered=True))
assert is_average
assert (cosines.argmax(), round(cosines[4], 2)) == (4, 1.0)

# %% [markdown]
# So `z` is the value of `ber`, hardly mixed with anything else: the position of the second `am` now holds
# what `ber` had to hand over. One step is left. The four heads' results stand side by side, 4 x 48 = 192
# numbers, head 0 first. One more matrix, `c_proj`, turns them into the 192 numbers that attention adds to the
# residual stream. Since each head meets its own 48 rows of that matrix, the heads simply add up:

# %%
by_heads = trace["h.1.attn.heads"][11]  # [head, n_embd]: what each head writes
bias = model.parameters.h[1].attn.c_proj.bias
adds_up = np.allclose(by_heads.sum(0) + bias, trace["h.1.attn.out"][11])
print("sum of four heads and the bias is what attention writes:", adds_up)
assert adds_up

# %% [markdown]
# **Your turn.** Average the values with the pattern, put the heads side by side, and apply `c_proj`: `weight`
# and `bias` are its matrix and its bias.


# %%
def mix(pattern, v, weight, bias):
    """pattern [head, query, key], v [key, head, d_head], weight [n_embd, n_embd], bias -> [pos, n_embd]."""
    return lessons.todo


# %%
lessons.check("attention.mix", mix)

# %% [markdown]
# ## 8. All sixteen heads
# You have written everything that attention does. Each layer does it with its own matrices. Where do the
# sixteen heads look in our text? For each head: its mean share for the token before, and for the token
# itself, at positions 1 to 11 (position 0 can only look at itself), and its share for `ber` at the last
# position. Each number is a share of its own: those of a row need not add up to anything.

# %%
patterns = trace.stack("attn.pattern").reshape(16, 12, 12)
names = [f"{layer}.{head}" for layer in range(4) for head in range(4)]
before = np.diagonal(patterns, -1, 1, 2).mean(axis=1)
itself = np.diagonal(patterns, 0, 1, 2)[:, 1:].mean(axis=1)
to_ber = patterns[:, 11, 4]
table = np.stack([before, itself, to_ber], axis=1)
axes, kinds = ("head", "what it looks at"), ["token before", "itself", "ber"]
lessons.show(lessons.heatmap(table, names, kinds, "share of attention", axes=axes, percent=True))

percent = {name: np.round(100 * row).astype(int).tolist() for name, row in zip(names, table, strict=True)}
assert [percent["0.0"][0], percent["0.2"][1], percent["0.3"][1]] == [98, 94, 96]
assert [percent[head][2] for head in ("1.0", "1.1", "1.3")] == [86, 78, 62]

# %% [markdown]
# Head 0.0 looks at the token before: 98 %. Heads 0.2 and 0.3 look at the token itself, 94 % and 96 %. In
# layer 1, three heads look at `ber`: 86 %, 78 % and 62 %. `gpt2np.view(trace, show="attention")` shows all.
#
# **Try it alive:** this page runs the model as you type; give it a name that nobody has. Where does 1.0 look?
# `gpt2np view --live "Lord Tamber spoke; and then Lord Tam" --show attention --layer 1 --head 0`
#
# Here is an answer to our question, in two steps. In layer 0, head 0.0 tells every position which token
# stands before it. So the stream at `ber` now says, among other things, "`am` is before me". In layer 1, the
# second `am` asks: "who has an `am` before it?" The key of `ber` answers.
#
# If that is how it works, then the model must be lost without head 0.0, although at the last position 0.0
# does not look at `ber`. We remove it, and for comparison each of the other heads of layer 0:

# %%
guess = trace.top(1)[0][0]
print(f"as it is:    head 1.0 gives {100 * last_row[4]:.0f} % to ber; the first guess is {guess!r}")
found = []
for head in range(4):
    without = model.trace(L, edits={"h.0.attn.z": gpt2np.analysis.interventions.zero(heads=head)})
    share, guess = round(100 * without["h.1.attn.pattern"][0, 11, 4]), without.top(1)[0][0]
    print(f"without 0.{head}: head 1.0 gives {share} % to ber; the first guess is {guess!r}")
    found.append((share, guess))
assert found == [(2, "a"), (100, "ber"), (40, "or"), (26, "b")]
print(f"0.0 at the last position: {100 * patterns[0, 11, 4]:.0f} % to ber")
assert round(100 * patterns[0, 11, 4]) == 0

# %% [markdown]
# Without 0.0, head 1.0 gives `ber` only 2 %, and the first guess is `a`. Without 0.1 nothing is lost: not
# *any* missing head would do this. Heads 0.2 and 0.3, which look at the token itself, are needed too: without
# them 40 % and 26 % are left. This is evidence for our answer, and no proof: it does not show *what* 0.0
# passes on, or who reads it. Lesson 5 takes that apart.
#
# ## 9. Your attention in all four layers
# Do your four functions, one after the other, give what the model computes? This cell tries it once all four
# are right.


# %%
def attention(x, p):
    """The stream after LayerNorm [pos, n_embd], and the layer's matrices -> what attention writes."""
    q, k, v = split(x @ p.c_attn.weight + p.c_attn.bias, 4)
    return mix(pattern(scores(q, k)), v, p.c_proj.weight, p.c_proj.bias)


if all(lessons.judge(f"attention.{each.__name__}", each).right for each in (split, scores, pattern, mix)):
    for layer in range(4):
        yours = attention(trace[f"h.{layer}.ln_1"], model.parameters.h[layer].attn)
        agrees = np.allclose(yours, trace[f"h.{layer}.attn.out"])
        print(f"layer {layer}: your attention is {'the same' if agrees else 'different'}")
else:
    print("not yet: write the four functions first")

# %% [markdown]
# The model can check itself in the same way. A *site* is a place in the computation whose numbers the trace
# holds, as `h.1.attn.scores`. `verify` computes each again from those before it, and says how far off it is.

# %%
checked = trace.verify().checked  # each site and its largest difference
first, *_, last = (line.partition(" =")[0] for line in checked)
print(f"{len(checked)} sites computed again, from {first} to {last}")
print(f"all right to 12 digits: {max(checked.values()) < 1e-12}")
assert max(checked.values()) < 1e-12

# %% [markdown]
# ## Break it
# Take one head of layer 0 and make it look at everything equally: every position gives each position that it
# can see the same share. Which of the four heads will the model miss most? Guess, then run it. The loss is in
# nats for each token: lower is better.

# %%
AUSTEN = (
    "Between Barton and Delaford, there was that constant communication which strong family affection would "
    "naturally dictate;"
)


def uniform(head):
    """An edit that makes one head look at everything equally."""

    def edit(pattern):
        n, pattern = pattern.shape[1], pattern.copy()
        pattern[head] = np.tri(n) / np.arange(1, n + 1)[:, None]
        return pattern

    return edit


as_it_is = model.score(AUSTEN).loss
print(f"as it is     {as_it_is:.2f}")
losses = {}
for head in range(4):
    losses[head] = round(model.score(AUSTEN, edits={"h.0.attn.pattern": uniform(head)}).loss, 2)
    print(f"0.{head} uniform  {losses[head]:.2f}")
zeroed = model.score(AUSTEN, edits={"h.0.attn.z": gpt2np.analysis.interventions.zero(heads=1)}).loss
print(f"0.1 removed  {zeroed:.2f}")
assert [round(as_it_is, 2), round(zeroed, 2)] == [3.46, 4.56]
assert losses == {0: 5.02, 1: 3.53, 2: 4.44, 3: 3.92}

# %% [markdown]
# For head 0.1 it hardly matters: 3.53 instead of 3.46. For the others it does: 5.02, 4.44 and 3.92. Yet the
# model needs 0.1: without it the loss is 4.56. What can a head be for, if it does not matter where it looks?
# Think of what an average of all values tells about a text. Lesson 6 shows how to test such an idea.
#
# ## The real GPT-2
# GPT-2 small has 12 layers of 12 heads. It has induction heads, too: 5.1 and 5.5 are two of them. If GPT-2 is
# in your cache, this cell asks it about the same name.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    first, name, middle = map(gpt2.token_ids, ("Lord", " Tamber", " spoke; and then Lord"))
    run = gpt2.trace([*first, *name, *middle, *name[:1]], keep=["h.5.attn.pattern", "logits"])
    print(list(run.tokens))
    for head in (1, 5):
        share = run["h.5.attn.pattern"][head, -1, len(first) + 1]
        print(f"5.{head} gives {100 * share:.0f} % to {gpt2.tokens(name[1:2])[0]!r}")
    print(f"next: {run.top(3)}")
else:
    print("GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell shows its heads")
