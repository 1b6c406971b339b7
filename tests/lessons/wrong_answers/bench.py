"Likely wrong answers of tools/bench: each is refused by its check."

# %% bench.1 without the backward pass
check_utilisation(lambda tokens_per_s, num_params, peak: 2 * num_params * tokens_per_s / peak)

# %% bench.1 upside down
check_utilisation(lambda tokens_per_s, num_params, peak: peak / (7 * num_params * tokens_per_s))

# %% bench.2 one operation for each weight
check_enough_tokens(lambda peak, bandwidth, bytes_a_weight: peak * bytes_a_weight / bandwidth)

# %% bench.2 weights of one byte
check_enough_tokens(lambda peak, bandwidth, bytes_a_weight: peak / (2 * bandwidth))
