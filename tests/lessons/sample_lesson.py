# %% [markdown]
# # 3. A sample: attention
# minutes: 20
#
# **Question:** how does a *row* of `scores` become one of the pattern?
#
# | token | what it is |
# | --- | --- |
# | `Lord` | the first one |

# %% [markdown]
# ## 1. A number
# Two and two is 4; <b>markup</b> is text. See [below](#2-a-table).

# %%
import numpy as np

import gpt2np
from gpt2np import lessons

two = np.float64(2)
print("two and two:", two + two)
assert two + two == 4

# %% [markdown]
# ## 2. A table
# Every run has a norm at each position.

# %%
model = gpt2np.load("tiny", dtype="float64")
trace = model.trace("Elizabeth was")
norms = np.linalg.norm(trace["embed"], axis=1)
norms.round(2).tolist()

# %% [markdown]
# ## 3. Yours: scores
# Write the function.


# %%
def scores(q, k):
    """Products of queries and keys.

    q [query, head, d_head], k [key, head, d_head] -> [head, query, key], -inf in the future.
    """
    return lessons.todo


# %%
lessons.check("attention.scores", scores)
