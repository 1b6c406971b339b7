"Likely wrong answers of lesson 02: each is refused by its check."

# %% 02.1 radians, not turns
check_turns(lambda head_dim, theta, length: turns(head_dim, theta, length) * 2 * math.pi)

# %% 02.1 the exponent of a pair is i / head_dim
def half_as_fast(head_dim, theta, length):
    return length * theta ** (-torch.arange(head_dim / 2) / head_dim) / (2 * math.pi)
check_turns(half_as_fast)

# %% 02.2 the other way round
def back(weight): return torch.stack(weight.chunk(2), 1).flatten(0, 1)
check_to_half_split(back)

# %% 02.3 turned the other way
check_shift(lambda k, by, rope: shift(k, -by, rope))

# %% 02.3 turned as if it stood at the beginning
check_shift(lambda k, by, rope: apply_rope(k, k, *rope(torch.arange(k.shape[2])))[1])
