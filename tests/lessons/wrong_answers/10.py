"Likely wrong answers of lesson 10: each is refused by its check."

# %% 10.1 a cut that may leave nothing
check_epsilon(lambda z, eps: z.where(z.softmax(-1) >= eps, -torch.inf))

# %% 10.2 two bytes for each character
check_whole(lambda d: len(d.decode(errors="ignore")) * 2)

# %% 10.2 one character too early
def leaves_the_last(data):
    ends = [i for i, b in enumerate(data) if b < 0x80 or b >= 0xC0]
    return ends[-1] if ends else 0
check_whole(leaves_the_last)

# %% 10.3 single tokens, not runs
check_repeats(lambda z, ids, n: z.index_fill(0, torch.tensor(ids), -torch.inf))
