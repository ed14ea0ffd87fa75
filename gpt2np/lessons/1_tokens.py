# %% [markdown]
# # 1. A string becomes numbers
# minutes: 40
#
# **Question: what does the model get instead of text?**
#
# You need Python and a little NumPy. Run the cells from top to bottom. Three of them hold a function that
# ends in `return lessons.todo`: write your own lines there, then run the check below it. It tells you whether
# you are right, and if you are not, what to ask yourself.

# %%
import itertools

import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.analysis import heads, interventions

model = gpt2np.load("tiny", dtype="float64")
tokenizer = model.tokenizer
L = "Lord Tamber spoke; and then Lord Tam"
ids = tokenizer.encode(L)
tokens = tokenizer.tokens(ids)
print(f"{len(L)} characters, {len(L.encode())} bytes, {len(ids)} tokens")
print(tokens)
print(ids)
assert (len(L), len(ids)) == (36, 12)

# %% [markdown]
# ## 1. Characters, bytes, tokens
# A model computes with numbers, so somebody has to turn a text into numbers. One number for each character?
# Then texts get long: 36 numbers for this one. One number for each word? Then there are words that nobody has
# ever numbered, such as `Tamber`.
#
# GPT-2 does something in between. It has a fixed list of *tokens*: frequent words whole, and pieces for
# everything else. Our text has 12 tokens. ` spoke` is one, and `Tamber` takes three: ` T`, `am` and `ber`.
#
# No text is ever impossible to write, since the first 256 tokens are the single bytes. All that a computer
# stores is bytes, and `é` is two of them:

# %%
for text in ("café", "cafe"):
    pieces = tokenizer.encode(text)
    print(f"{text}: {len(text.encode())} bytes, tokens", [tokenizer.token_bytes(i) for i in pieces])
print(f"{tokenizer.n_vocab:,} tokens in all:", tokenizer.parts())
assert len(tokenizer.encode("café")) == 5
assert tokenizer.parts() == {"bytes": 256, "merges": 1791, "added": 1}

# %% [markdown]
# Our model is called `tiny`. It has read Jane Austen and Shakespeare, and nothing else. It knows 2,048
# tokens: the 256 bytes, 1,791 pieces that are made of them, and one that marks the end of a text.
#
# ## 2. Spaces and capitals count
# Is `Elizabeth` a token? It depends on where it stands, and on how you write it:

# %%
for text in (" Elizabeth", "Elizabeth", " elizabeth", "ELIZABETH"):
    pieces = tokenizer.encode(text)
    print(f"{text!r:13} {len(pieces)} {tokenizer.tokens(pieces)} {pieces}")
counts = [len(tokenizer.encode(text)) for text in (" Elizabeth", "Elizabeth", " elizabeth", "ELIZABETH")]
assert counts == [1, 2, 2, 5]

# %% [markdown]
# With a space in front it is one token, number 1264: that is how most words stand in a book, in the middle of
# a sentence. Without the space it takes two tokens, and in capitals five. Number 1264 has nothing in common
# with numbers 36 and 1116. That they spell the same name is something that the model has to learn.
#
# So do not end a prompt with a space: the next word would bring one of its own.
#
# ## 3. A recipe with 1,791 lines
# Where do the pieces come from? Before training, somebody counted which two neighbours stood side by side
# most often in the texts. That pair became a new token, and the counting began again. The result is a file
# with one pair in each line, `merges.txt`. The number of its line, from 0, is called the *rank* of a pair.
#
# To cut up a word, start from its letters. Look at all pairs of neighbours, and join the one that was learned
# first: the one with the lowest rank. Then look again, since there are new pairs now. (The file writes a
# space as `Ġ`.)

# %%
symbols, ranks = lessons.inputs("tokens.merge")
print(f"{len(ranks):,} pairs; the first are", [pair for pair, rank in ranks.items() if rank < 4])
print("word: ", *symbols)
print("pairs:", *(f"{a}+{b} {ranks.get((a, b), 'no')}," for a, b in itertools.pairwise(symbols)))
for piece in tokenizer.encode(" thereupon"):
    print(f"{tokenizer.tokens([piece])[0]!r}:")
    for made in tokenizer.merges(piece):
        print(f"  rank {made.number - 1:4}:", *made.pieces)
assert [ranks[pair] for pair in (("Ġ", "t"), ("u", "p"), ("o", "n"), ("p", "on"))] == [0, 1484, 22, 1308]
assert tokenizer.tokens(tokenizer.encode(" thereupon")) == [" there", "u", "pon"]

# %% [markdown]
# Look at the end of the word. `u` and `p` could be joined: `up` is a token, with rank 1484. But `o` and `n`
# come first, with rank 22. Now there is a pair `p` and `on`, which has rank 1308, and `up` is too late. The
# result is ` there`, `u`, `pon`. The tokeniser has no idea of words. It follows its list.
#
# **Your turn.** Write this as a function. In each round it takes the pair with the lowest rank and joins it
# wherever it stands in the word, from left to right; of `a a a` it joins the first two. It ends when no two
# neighbours are in the list. It is tried on six words that were chosen because other rules cut them into
# other tokens, and then on a row of equal letters and on a single letter.


# %%
def merge(symbols, ranks):
    """symbols: a list of letters; ranks: a dict from (first, second) to the rank -> a list of tokens."""
    return lessons.todo


# %%
lessons.check("tokens.merge", merge)

# %% [markdown]
# ## 4. A token's number is the number of a row
# Is token 1264 greater than token 313? The question makes no sense. The number only says which row of a table
# belongs to the token. The table is called `wte`, and its rows were learned: one vector of 192 numbers for
# each of the 2,048 tokens. Here are the first eight numbers for each token of our text:

# %%
wte = model.parameters.wte
print(f"wte: {wte.shape[0]:,} rows of {wte.shape[1]} numbers")
lessons.show(
    lessons.heatmap(wte[ids, :8], tokens, [str(i) for i in range(8)], "rows of wte, first 8 numbers")
)
print("the two ' T' have the same vector:", np.array_equal(wte[ids][2], wte[ids][10]))
assert wte.shape == (2048, 192)
assert np.array_equal(wte[ids][2], wte[ids][10])

# %% [markdown]
# No single number of these means anything that you could name. What matters is which vectors point in
# similar directions.
#
# ## 5. Who stands near whom?
# Two vectors that point the same way have a cosine of 1, whatever their lengths; the cosine is their dot
# product divided by both lengths. For six tokens, here are the ones that point most nearly the same way:

# %%
for word in (" three", " king", " sister", " Darcy", " was", "day"):
    near = heads.tokens_read(model, wte[tokenizer.encode(word)[0]], k=4, by="cosine")[1:]
    print(f"{word!r:9}", ", ".join(f"{each.token!r} {each.cosine:.2f}" for each in near))
three = heads.tokens_read(model, wte[tokenizer.encode(" three")[0]], k=2, by="cosine")[1]
darcy = heads.tokens_read(model, wte[tokenizer.encode(" Darcy")[0]], k=2, by="cosine")[1]
assert (three.token, round(three.cosine, 2)) == (" two", 0.72)
assert (darcy.token, round(darcy.cosine, 2)) == (" Bingley", 0.76)

# %% [markdown]
# Nobody told the model what a number is, or a relative. It has only ever guessed the next token. But where `
# three` can stand, ` two` can stand as well, and so their vectors came to point in similar directions: their
# cosine is 0.72. Darcy is nearest to his friend Bingley, with 0.76.
#
# **Your turn.** Find the tokens that are nearest to token `i` by cosine, the nearest first, without the token
# itself.


# %%
def nearest(i, wte, k):
    """i: a token's number; wte [vocab, n_embd] -> the numbers of the k nearest tokens."""
    return lessons.todo


# %%
lessons.check("tokens.nearest", nearest)

# %% [markdown]
# ## 6. The same word at two places
# You saw that both ` T` of our text have the same vector. Then how could the model tell which of them came
# first? It could not. That is why there is a second table, `wpe`, with one row for each *place*: row 0 for
# the first token of a text, row 1 for the second, whatever these tokens are. It has 256 rows, and a longer
# text is too long for this model.
#
# Do places that are close together have rows that point in similar directions? First come the cosines of
# twelve places in the middle of a text. Below them, all pairs of places that are one apart are averaged, then
# all that are two apart, and so on:

# %%
wpe = model.parameters.wpe
lengths = np.linalg.norm(wpe, axis=1)
directions = wpe / lengths[:, None]
cosines = directions @ directions.T
some = slice(100, 112)
places = [str(place) for place in range(256)[some]]
lessons.show(lessons.heatmap(cosines[some, some], places, places, "cosines of rows of wpe", percent=True))
means = [float(np.diagonal(cosines, apart).mean()) for apart in range(1, 22)]
title = "mean cosine of two rows of wpe, by how far their places are apart"
lessons.show(lessons.bars(means, [f"{apart} apart" for apart in range(1, 22)], title, percent=True))
print(f"{len(wpe)} rows; row 0 has length {lengths[0]:.2f}, the others {lengths[1:].min():.2f} ", end="")
print(f"to {lengths[1:].max():.2f}")
assert [round(100 * means[apart - 1]) for apart in (1, 2, 3, 7, 11, 13, 16, 19)] == [
    29,
    44,
    -4,
    32,
    16,
    24,
    12,
    25,
]
assert [round(x, 2) for x in (lengths[0], lengths[1:].min(), lengths[1:].max())] == [2.21, 1.23, 1.6]

# %% [markdown]
# Places are not simply "near" or "far". Two steps apart they are more alike (44 %) than one step apart (29
# %), and three steps apart, on average, not at all (-4 %). Then the bars go up and down, again and again:
# up to 32 % at 7 apart, down to 16 % at 11, up to 24 % at 13, down to 12 % at 16, up to 25 % at 19. So the
# rows hold waves: `tiny` began its training with sines and cosines of different wavelengths in this table,
# and they have not gone. One row stands out: row 0 is the longest, with 2.21. The first place of a text is
# special, and lesson 2 comes back to it.
#
# ## 7. Put together
# The model needs both, the token and the place. The simplest thing that you can do with two vectors is to add
# them, and that is what GPT-2 does. The sum is all that the rest of the model ever gets to see of your text.

# %%
print(lessons.inputs("tokens.embed"))
trace = model.trace(L)
for site in ("wte", "wpe", "embed"):
    print(f"trace[{site!r}]: {trace[site].shape}")
alike = [np.array_equal(trace[site][2], trace[site][10]) for site in ("wte", "wpe", "embed")]
print("the two ' T' are the same in wte, wpe, embed:", *alike)
assert alike == [True, False, False]

# %% [markdown]
# **Your turn.** From the numbers of the tokens and the two tables, make the vectors that the first layer
# gets.


# %%
def embed(ids, wte, wpe):
    """ids: a list of token numbers; wte [vocab, n_embd], wpe [max_pos, n_embd] -> [pos, n_embd]."""
    return lessons.todo


# %%
lessons.check("tokens.embed", embed)

# %% [markdown]
# ## 8. The top of the map
# This is the page of our run. On the left, each token has a column; in the middle stands the token that you
# choose. The first three strips are what you have just computed: the row of `wte`, the row of `wpe`, and
# their sum, the stream. (In formulas the page calls the two tables `W_E` and `W_P`, as many papers do.)
# Everything below reads from that sum and adds to it. Choose the other ` T`, and see which of the three
# strips stays the same.

# %%
lessons.show(gpt2np.view(trace, show="map", pos=2))

# %% [markdown]
# ## Break it
# How much does the model need the places? First take `wpe` away, so that no token knows where it stands. Then
# give it back, but turned around: the last token gets row 0, the first one the highest. Which is worse?
# Guess, then run it.
#
# How bad a model is at a text is measured by its *loss*: the mean of -ln p, where p is the probability that
# it gave to the token that really came next. Its unit is called *nat*. A loss of 0 would be certainty. Who
# gives every one of the 2,048 tokens the same probability has a loss of ln 2,048.

# %%
AUSTEN = (
    "Between Barton and Delaford, there was that constant communication which strong family affection would "
    "naturally dictate;"
)
changes = {
    "as it is": {},
    "without wpe": {"wpe": interventions.zero()},
    "turned around": {"wpe": lambda rows: rows[::-1]},
}
losses = {}
print(f"the same for every token: {np.log(tokenizer.n_vocab):.2f}")
for name, edits in changes.items():
    losses[name] = round(model.score(AUSTEN, edits=edits).loss, 2)
    next_one = ", ".join(f"{token!r} {p:.2f}" for token, _, p in model.trace(L, edits=edits).top(3))
    print(f"{name:13}  loss {losses[name]:.2f}   after our text: {next_one}")
assert list(losses.values()) == [3.46, 6.59, 7.54]
assert round(np.log(tokenizer.n_vocab), 2) == 7.62
assert round(model.trace(L, edits=changes["turned around"]).top(1)[0][2], 2) == 0.7

# %% [markdown]
# Without places the loss goes from 3.46 to 6.59. Turned around it is 7.54, hardly better than the 7.62 of
# one who knows nothing: here wrong places are worse than none. And yet, turned around, the model still finds
# `ber` after our text, with 0.70. Tokens that were
# neighbours are neighbours still. Why might that be enough? Lesson 3 shows what the model does with
# neighbours.
#
# ## The real GPT-2
# GPT-2's tokeniser works in just the same way. It has 50,257 tokens: 256 bytes, 50,000 merges, and one that
# marks the end of a text. If GPT-2 is in your cache, this cell compares the two.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    print(f"{gpt2.tokenizer.n_vocab:,} tokens:", gpt2.tokenizer.parts())
    for text in (L, " thereupon", "ELIZABETH", "café"):
        for name, each in (("tiny", tokenizer), ("gpt2", gpt2.tokenizer)):
            print(f"{name}: {each.tokens(each.encode(text))}")
    table = gpt2.parameters.wte
    near = heads.tokens_read(gpt2, table[gpt2.token_ids(" three")[0]], k=4, by="cosine")[1:]
    print("near ' three':", ", ".join(f"{each.token!r} {each.cosine:.2f}" for each in near))
else:
    print("GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell compares tokens")
