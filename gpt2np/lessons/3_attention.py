# %% [markdown]
# # 3. How words talk: attention
# minutes: 60
