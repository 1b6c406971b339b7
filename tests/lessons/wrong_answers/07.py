"Likely wrong answers of lesson 07: each is refused by its check."

# %% 07.1 blocks as in the lesson
def as_blocks(t, n):
    return [(t[i:i + n], t[i + 1:i + n + 1]) for i in range(0, len(t) - n, n + 1)]
check_overlapping(as_blocks)

# %% 07.1 a last block that is short
def with_the_tail(t, n):
    return [(t[i:i + n][:len(t) - 1 - i], t[i + 1:i + n + 1]) for i in range(0, len(t) - 1, n)]
check_overlapping(with_the_tail)

# %% 07.2 an EOS belongs to the next article
check_segments(lambda block, eos: (block == eos).long().cumsum(0))

# %% 07.3 a look ahead
check_wall(lambda s: s[:, None] == s)

# %% 07.3 no wall
check_wall(lambda s: torch.ones(len(s), len(s), dtype=torch.bool).tril())

# %% 07.4 by chance
check_in_valid(lambda text, fraction, seed: np.random.rand() < fraction)

# %% 07.4 by Python's own hash
check_in_valid(lambda text, fraction, seed: hash((text, seed)) % 10000 < 10000 * fraction)

# %% 07.4 right at tenths only
def in_tenths(text, fraction, seed):
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()[0] * 10 // 256 < 10 * fraction
check_in_valid(in_tenths)

# %% 07.4 right at hundredths only
def in_hundredths(text, fraction, seed):
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8]) % 100 < 100 * fraction
check_in_valid(in_hundredths)

# %% 07.4 another fraction, another split
def by_fraction(text, fraction, seed): return in_valid(f"{fraction}{text}", fraction, seed)
check_in_valid(by_fraction)

# %% 07.4 without the seed
check_in_valid(lambda text, fraction, seed: in_valid(text, fraction, 0))
