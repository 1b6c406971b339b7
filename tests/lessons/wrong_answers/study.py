"Likely wrong answers of tools/study: each is refused by its check."

# %% study.1 how likely the best token is missed
check_label_noise(lambda p: 1 - p.max())

# %% study.1 how unlike the probabilities are
check_label_noise(lambda p: p.var())

# %% study.2 zero times infinity
def overflows(p, q, beta=0.5):
    m = beta * p + (1 - beta) * q
    return beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum()
check_jsd(overflows)

# %% study.2 the middle of both, whatever beta is
def halfway(p, q, beta=0.5):
    m = ((p + q) / 2).clamp(min=1e-30)
    return beta * torch.xlogy(p, p / m).sum() + (1 - beta) * torch.xlogy(q, q / m).sum()
check_jsd(halfway)

# %% study.2 beta is the other's
check_jsd(lambda p, q, beta=0.5: jsd(p, q, 1 - beta))
