"Likely wrong answers of tools/cache: each is refused by its check."

# %% cache.1 all draws are different
check_expected_unique(lambda p, n: torch.full(p.shape[:-1], float(n)))

# %% cache.1 a draw of its own for each token
check_expected_unique(lambda p, n: (n * p).clamp(max=1).sum(-1))

# %% cache.2 the draws as they are
check_reweighted(lambda tokens, p, p_T: shares(tokens, len(p)))

# %% cache.2 the ratio upside down
check_reweighted(lambda tokens, p, p_T: shares(tokens, len(p)) * p / p_T)

# %% cache.2 brought to a sum of one, so no longer unbiased
def normalised(tokens, p, p_T):
    estimate = reweighted(tokens, p, p_T)
    return estimate / estimate.sum()
check_reweighted(normalised)
