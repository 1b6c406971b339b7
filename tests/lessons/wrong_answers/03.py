"Likely wrong answers of lesson 03: each is refused by its check."

# %% 03.1 keys alone are counted
def keys_alone(num_bytes, num_layers, num_kv_heads, head_dim, number_bytes=2):
    return num_bytes // (num_layers * num_kv_heads * head_dim * number_bytes)
check_tokens_that_fit(keys_alone)

# %% 03.2 one token too many
check_sliding_mask(lambda new, total, window: sliding_mask(new, total, window + 1))

# %% 03.2 right without a cache alone
check_sliding_mask(lambda new, total, window: causal_mask(new, total).triu(1 - window))

# %% 03.3 heads that lie next to each other are not those of a group
def strided(weight, num_heads, num_kv_heads):
    return weight.unflatten(0, (num_heads // num_kv_heads, num_kv_heads, -1)).mean(0).flatten(0, 1)
check_pool(strided)

# %% 03.4 a look ahead
check_document_mask(lambda documents: documents[:, None] == documents)

# %% 03.4 zeros and ones, which attention adds to its scores
check_document_mask(lambda documents: document_mask(documents).float())
