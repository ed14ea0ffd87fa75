# %% [markdown]
# # 4. The next word, again and again: logits, lens, sampling, cache
# minutes: 50
#
# **Question: how does a vector become a word, and a word a text?**
#
# You need lesson 3 and NumPy. Run the cells from top to bottom. Three of them hold a function that ends in
# `return lessons.todo`: write your own lines there, then run the check below it. It tells you whether you are
# right, and if you are not, what to ask yourself.

# %%
import textwrap

import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.analysis import attribution, interventions, lens
from gpt2np.generation import filters

model = gpt2np.load("tiny", dtype="float64")
L = "Lord Tamber spoke; and then Lord Tam"
trace = model.trace(L)
tokens = list(trace.tokens)
print(f"at the end of the last layer, each position has {trace['h.3.resid_post'].shape[1]} numbers;", end=" ")
print(f"then {trace['logits'].shape[1]:,} logits")
best = np.argsort(-trace["logits"][-1])[:6]
title = "the largest logits at the last position"
lessons.show(lessons.bars(trace["logits"][-1, best], [trace.token(i) for i in best], title))
assert trace.token(best[0]) == "ber"
assert round(trace["logits"][-1].max(), 1) == 17.4
assert (model.config.n_embd, trace["logits"].shape[1]) == (192, 2048)

# %% [markdown]
# ## 1. One number for each token
# At the end of the last layer, the stream at each position is a vector of 192 numbers. We want a word. There
# are 2,048 tokens, and each of them has a vector already: its row of `wte`, which lesson 1 put in at the top.
# GPT-2 uses the same table once more. The stream goes through a last LayerNorm, `ln_f`. Then its dot product
# with the vector of *each* token says how well that token fits. These 2,048 numbers are called **logits**.
# Here `ber` has the largest, 17.4.
#
# **Your turn.** Compute the logits. `ln_f` is a LayerNorm with a `weight`, a `bias` and an `epsilon`, as in
# lesson 2.

# %%
print(lessons.inputs("next_word.logits"))


# %%
def logits(x, ln_f, wte):
    """x [pos, n_embd], wte [vocab, n_embd] -> [pos, vocab]."""
    return lessons.todo


# %%
lessons.check("next_word.logits", logits)

# %% [markdown]
# ## 2. Shares, and surprise
# A softmax turns the logits into probabilities that add up to 1. This happens at every position, so for each
# token of our text we can ask: how likely did the model find it, just before it came?

# %%
chances = [filters.probabilities(row) for row in trace["logits"]]
found = [float(chances[i][trace.token_ids[i + 1]]) for i in range(len(tokens) - 1)]
title = "how likely each token was, before it came"
lessons.show(lessons.bars(found, tokens[1:], title, percent=True))
loss = -np.mean(np.log(found))
print(f"loss of the text: {loss:.2f} nats for each token; by score: {model.score(L).loss:.2f}")
assert [round(100 * found[i]) for i in (9, 10)] == [68, 96]
assert np.isclose(loss, model.score(L).loss)
assert round(loss, 2) == 4.23

# %% [markdown]
# Nobody could foresee `ber` the first time. But the second ` T` gets 68 %, and the second `am` gets 96 %: by
# then the model has seen the name. The **loss** of a text is the mean of all these surprises, each measured
# as minus the logarithm of the probability. Here it is 4.23. Training is nothing but making this number
# smaller, on millions of tokens.
#
# ## 3. Asking too early
# Nothing keeps us from asking before the last layer. Take the stream after any step, apply `ln_f` and the
# table, and read off what the model would say if it had to stop there. This is called the **logit lens**.
# Four texts; for each, the probability of one token after each step, in percent:

# %%
TEXTS = {
    L: "ber",
    "My lord, I am your ser": "vant",
    "It is a truth universally ack": "now",
    "The king is dead; long live the": " king",
}
seen = [lens.logit_lens(model.trace(text), token, pos=-1).probability for text, token in TEXTS.items()]
steps = seen[0].labels["site"]
grid = np.stack([each.array[:, 0] for each in seen], axis=1)  # [step, text]
axes = ("stream", "next token")
lessons.show(lessons.heatmap(grid, steps, list(TEXTS.values()), "logit lens", axes=axes, percent=True))
lessons.show(gpt2np.view(trace, show="lens", pos=-1))
assert [round(100 * p) for p in grid[[3, 8], 0]] == [39, 98]
assert [round(100 * p) for p in grid[-3:, 3]] == [70, 87, 38]
assert [round(100 * p) for p in grid[[6, 8], 1]] == [26, 55]

# %% [markdown]
# `ber` jumps from nothing to 39 % with the attention of layer 1: there are the heads from lesson 3 that look
# at what came next, the last time. Part 4 shows what they add. After `ser`, `vant` grows slowly: 26 % after
# layer 2, 55 % in the end. And the last column goes *down*. After the attention of layer 3, ` king` stands at
# 87 %. Then the last MLP takes more than half of it back: 38 %. Every step may lower a probability as well as
# raise it.
#
# ## 4. Who said so?
# The stream is a sum (lesson 2), and the dot product of a sum is the sum of the dot products. (`ln_f` divides
# by the spread of the whole; this number is held as it was.) So each part of the sum has its own share in the
# logit of `ber`: heads, MLPs, embeddings and biases. The shares add up to 17.4. The eight largest, and the
# smallest, and then the share of the last MLP if three heads of layer 1 are taken away:

# %%
parts = attribution.attribution(trace, "ber")
order = np.argsort(-parts.array)
names = [parts.labels["component"][i] for i in order]
some = [*range(8), len(order) - 1]
title = "what each part adds to the logit of ber"
lessons.show(lessons.bars(parts.array[order][some], [names[i] for i in some], title))
print(f"sum of all {len(order)} parts: {parts.array.sum():.1f}")
three = interventions.zero(heads=[0, 1, 3])
fewer = attribution.attribution(model.trace(L, edits={"h.1.attn.z": three}), "ber")
left = fewer.array[fewer.labels["component"].index("h.3.mlp")]
print(f"without heads 0, 1, 3 of layer 1: h.3.mlp adds {left:.1f}, all together {fewer.array.sum():.1f}")
assert [round(left, 1), round(fewer.array.sum(), 1)] == [3.5, 9.4]
assert names[:4] == ["h.3.mlp", "h.1.attn.head.0", "h.2.mlp", "h.1.attn.head.1"]
assert round(parts.array.sum(), 1) == 17.4
assert round(parts.array.max(), 1) == 5.2

# %% [markdown]
# Heads 0, 1 and 3 of layer 1 are there, the induction heads. But the largest part is the last MLP's, 5.2. It
# cannot look back at the text. It only reads the stream, and part of what it reads is what these heads have
# written: without them it adds 3.5, and the logit is 9.4.
#
# ## 5. A text
# To write, the model needs only one thing more: choose a token, put it behind the text, and ask again. The
# simplest choice is always the most likely token (**greedy**).

# %%
heads = {
    "as it is": {},
    "without 1.0, 1.1, 1.3 and 2.2": {1: [0, 1, 3], 2: [2]},
    "without 1.2, 2.0, 2.1 and 2.3": {1: [2], 2: [0, 1, 3]},
}
greedy, again = {}, {}
for name, taken in heads.items():
    edits = {f"h.{layer}.attn.z": interventions.zero(heads=which) for layer, which in taken.items()}
    greedy[name] = model.generate("Elizabeth was", max_new_tokens=40, edits=edits).finish().text
    words = greedy[name].split()
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    again[name] = (len(fours), len(fours) - len(set(fours)))
    print("{}: of {} runs of four words, {} stood there before".format(name, *again[name]))
    print(textwrap.fill(greedy[name], 80))
greedy = greedy["as it is"]
assert greedy.count("in the same time") == 6
assert list(again.values()) == [(38, 23), (24, 0), (27, 19)]

# %% [markdown]
# It gets into a loop: of 38 runs of four words, 23 stood there before. Is it the induction heads of lesson 3,
# which copy what has been written before? Without the three of them, and 2.2, which copies as well, nothing
# is said twice. Without the other four heads of the same two layers, the loop is back: 19 of 27. So these
# heads keep it going. (Lesson 5 is about taking heads away.) A model needs them, though, and the most likely
# token each time is not how people write. We need some chance.
#
# ## 6. Temperature
# Draw the token at random, then, each with its own probability. How wild that is can be set: the logits are
# divided by a **temperature** before the softmax. Below 1, the differences between the logits become larger,
# and the likely become likelier. Above 1 it is the other way round.
#
# Three numbers for "Elizabeth was": the largest probability; how many tokens the model hesitates between
# (that is e to the power of the entropy); and how many of the likeliest tokens it takes to have nine tenths
# of the whole.

# %%
after = model.trace("Elizabeth was")["logits"][-1]  # [vocab]
print("temperature  largest  hesitates between  tokens in 90 %")
rows = {}
for temperature in (0.5, 0.8, 1.0, 1.5):
    p = filters.probabilities(after / temperature)
    between = np.exp(-np.sum(p * np.log(p)))
    needed = int(np.sum(np.cumsum(np.sort(p)[::-1]) < 0.9)) + 1
    rows[temperature] = (round(float(p.max()), 3), round(float(between)), needed)
    print(f"{temperature:11}  {p.max():7.3f}  {between:17.0f}  {needed:14}")
assert rows == {0.5: (0.466, 12, 23), 0.8: (0.166, 78, 115), 1.0: (0.092, 157, 212), 1.5: (0.032, 403, 435)}

# %% [markdown]
# At 0.5, the model hesitates between 12 tokens, at 1.5 between 403. There are so many ways to go on after
# "Elizabeth was".
#
# ## 7. Cutting off the tail
# Most of the 2,048 tokens are nonsense at any place. Each of them is unlikely, but there are many, and so now
# and then one of them is drawn. Two filters help. **top-k** keeps the k likeliest tokens. **top-p** keeps the
# likeliest tokens until their probabilities reach p: the one with which the sum gets there stays, too. What
# is left is divided by its sum, so that it adds up to 1 again. The order is: temperature, top-k, top-p. Each
# filter looks at what the one before has left, so the division comes between top-k and top-p, too.
#
# gpt2np keeps a ledger of such choices. It says what each filter removed:

# %%
run = model.generate(
    "Elizabeth was", temperature=0.8, top_k=50, top_p=0.9, seed=0, max_new_tokens=5, ledger=True
)
for token in run:
    removed = ", ".join(f"{each.name} {each.count:,}" for each in token.ledger.removals if each.count)
    print(f"{token.text!r:10} p {token.probability:.3f}   removed: {removed}; left: {token.ledger.survivors}")

# %% [markdown]
# **Your turn.** From the logits of one position, make the probabilities that a token is drawn from. A removed
# token has probability 0. With `top_k` the whole vocabulary and `top_p` 1.0, nothing is removed.


# %%
def filtered(logits, temperature, top_k, top_p):
    """logits [vocab], a temperature above 0, a number of tokens, a share -> probabilities [vocab]."""
    return lessons.todo


# %%
lessons.check("next_word.filtered", filtered)

# %% [markdown]
# ## 8. The same dice
# "Random" means here: a random number decides, and a **seed** decides the random numbers. Another seed,
# another text. The same seed, the same text, on every machine.
#
# **Try it alive:** `gpt2np view --live "Elizabeth was" --show lens` opens a page that throws the same dice.
# Press "Generate", and look at every choice: what was left to choose from, and the draw. How low must the
# temperature be, for two seeds to write the same text?

# %%
for seed in (0, 1, 2, 3, 3):
    said = model.generate("Elizabeth was", temperature=0.8, seed=seed, max_new_tokens=14).finish().text
    print(seed, repr(said))
twice = [model.generate(L, temperature=0.8, seed=3, max_new_tokens=9).finish().text for _ in range(2)]
assert twice[0] == twice[1]

# %% [markdown]
# ## 9. What is computed twice?
# For each new token, the whole text goes through the model again. Is that needed? In lesson 3 you changed the
# last token, and nothing before it changed. So for all older positions, everything is as it was. What does
# the newest position need from them? Only what attention takes: their keys and values.

# %%
shorter = model.trace(model.token_ids(L)[:7])
agree = [
    all(
        np.allclose(shorter[f"h.{layer}.attn.{x}"], trace[f"h.{layer}.attn.{x}"][:7], rtol=1e-9) for x in "kv"
    )
    for layer in range(4)
]
print("keys and values of seven tokens, alone and in the whole text, are the same:", agree)
again = sum(range(12, 12 + 64))
print(f"64 new tokens after our 12: {again:,} positions are run if each step runs all,", end=" ")
print(f"{12 + 63} if each step runs one")
a_token = 4 * 2 * model.config.n_embd
print(
    f"what is kept of each token: 4 layers x 2 x 192 = {a_token:,} numbers, {4 * a_token:,} bytes in float32"
)
assert all(agree)
assert (again, 12 + 64 - 1, 4 * a_token) == (2784, 75, 6144)

# %% [markdown]
# ## 10. The cache
# Keeping them is called the **KV cache**. For 64 new tokens, 75 positions are run instead of 2,784. The price
# is memory: 6,144 bytes for each token here, and the number grows with the text.
#
# Below are the steps of a layer for one single vector, as you wrote them in lessons 2 and 3. What is missing
# is the part that joins them, with the cache.


# %%
def normed(x, ln):
    """LayerNorm of one vector."""
    return (x - x.mean()) / np.sqrt(x.var() + ln.epsilon) * ln.weight + ln.bias


def query_key_value(x, block, n_head):
    """Of one vector of the stream [n_embd]: q, k, v, each [head, d_head]."""
    qkv = normed(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
    return qkv.reshape(3, n_head, -1)


def attention(q, keys, values, block):
    """What one query [head, d_head] gathers from keys and values [key, head, d_head]: [n_embd]."""
    e = np.exp(np.einsum("hd,khd->hk", q, keys) / np.sqrt(q.shape[-1]))
    z = np.einsum("hk,khd->hd", e / e.sum(axis=1, keepdims=True), values)
    return z.ravel() @ block.attn.c_proj.weight + block.attn.c_proj.bias


def mlp(x, block):
    """What the MLP adds to one vector of the stream: [n_embd]."""
    x = normed(x, block.ln_2) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ block.mlp.c_proj.weight + block.mlp.c_proj.bias


print(lessons.inputs("next_word.step"))

# %% [markdown]
# **Your turn.** Run one token through the model. `model.parameters` has `wte`, `wpe`, `ln_f` and the list `h`
# of blocks; `cache[layer]["k"]` and `cache[layer]["v"]` are [past, head, d_head]. Put the token's own rows
# into the cache, so that the next step finds them. The check runs the rest of our text through your function,
# from position 6 on.


# %%
def step(token, position, cache, model):
    """token, position: numbers; cache: a dict for each layer, which gets new rows -> logits [vocab]."""
    return lessons.todo


# %%
lessons.check("next_word.step", step)

# %% [markdown]
# With that, you can write a text without gpt2np's own `generate`:

# %%
if lessons.judge("next_word.step", step).right:
    none = np.zeros((0, model.config.n_head, model.config.d_head))
    cache = [{"k": none, "v": none} for _ in range(model.config.n_layer)]
    written = model.token_ids("Elizabeth was")
    for position in range(20):
        answer = step(written[position], position, cache, model)
        if position == len(written) - 1:
            written.append(int(answer.argmax()))
    print(repr(model.decode(written)))
    print("as generate says it:", greedy.startswith(model.decode(written)))
else:
    print("not yet: write the step first")

# %% [markdown]
# ## Break it
# Turn the temperature up to 1.6. What will the text look like? Then keep the temperature, but allow only the
# five likeliest tokens. Guess first.

# %%
for top_k in (0, 5):
    for seed in (0, 1, 2):
        run = model.generate("Elizabeth was", temperature=1.6, top_k=top_k, seed=seed, max_new_tokens=14)
        print(f"top_k {top_k}: {run.finish().text!r}")
hot = np.sort(filters.probabilities(after / 1.6))[::-1]
print(f"at 1.6, the first 5 tokens have {100 * hot[:5].sum():.0f} % of the whole,", end=" ")
print(f"and all behind the first 40 have {100 * hot[40:].sum():.0f} %")
assert [round(100 * hot[:5].sum()), round(100 * hot[40:].sum())] == [8, 68]
assert max(rows) < 1.6  # hotter than any in the table

# %% [markdown]
# At 1.6, the five likeliest tokens have only 8 % of the whole, and all those behind the first 40 have 68 %.
# Two of three draws come from a place where nearly nothing fits. With top_k 5 the text is sound again,
# although the temperature is the same. It is not greedy, because any of the five may be drawn: another seed
# still gives another text.
#
# ## The real GPT-2
# If GPT-2 small is in your cache, this cell asks the lens where it knows the city. The answer comes late:
# most layers say something else. Its cache takes 73,728 bytes for each token.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    run = gpt2.trace("The Eiffel Tower is in the city of")
    paris = gpt2.token_ids(" Paris")[0]
    found = lens.logit_lens(run, paris, pos=-1)
    for i, name in enumerate(found.probability.labels["site"]):
        if name.endswith("resid_post"):
            first = found.texts[int(found.top_ids.array[i, 0, 0])]
            print(f"{name:16} ' Paris' {100 * found.probability.array[i, 0]:5.1f} %   first: {first!r}")
    print(f"cache: {gpt2.config.n_layer * 2 * gpt2.config.n_embd * 4:,} bytes a token")
    print(gpt2.generate("The Eiffel Tower is in", temperature=0.8, top_k=40, seed=0).finish().text)
else:
    print("GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell asks its lens")
