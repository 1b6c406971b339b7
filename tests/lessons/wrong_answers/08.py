"Likely wrong answers of lesson 08: each is refused by its check."

# %% 08.1 the forward direction
check_reverse_kl(lambda s, t, T=1.: reverse_kl(t, s, T))

# %% 08.1 T² left out
check_reverse_kl(lambda s, t, T=1.: reverse_kl(s, t, T) / T**2)

# %% 08.1 a logarithm of probabilities
def through_probs(s, t, T=1.):
    q, p = ((x / T).softmax(-1) for x in (s, t))
    return T**2 * (q * (q / p).log()).sum(-1).mean()
check_reverse_kl(through_probs)

# %% 08.2 the student as its own teacher
check_ignorant_teacher(lambda s: s)

# %% 08.3 a tail that is left out
def no_tail(s, t, k):
    top = t.topk(k).indices
    q, p = (x.gather(1, top).log_softmax(-1) for x in (s, t))
    return (p.exp() * (p - q)).sum(-1).mean()
check_topk_kl(no_tail)

# %% 08.3 the student's likeliest tokens
def students_top(s, t, k):
    at = s.argsort(descending=True) # the student's order for both
    q, p = (x.log_softmax(-1).gather(1, at) for x in (s, t))
    q, p = (torch.cat([x[:, :k], x[:, k:].logsumexp(-1, keepdim=True)], -1) for x in (q, p))
    return (p.exp() * (p - q)).sum(-1).mean()
check_topk_kl(students_top)
