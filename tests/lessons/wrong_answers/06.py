"Likely wrong answers of lesson 06: each is refused by its check."

# %% 06.1 one token too few
def too_few(p, mass=0.9): return int((p.sort(descending=True).values.cumsum(-1) < mass).sum())
check_nucleus_size(too_few)

# %% 06.1 in the order of the vocabulary
def unsorted(p, mass=0.9): return int((p.cumsum(-1) - p < mass).sum())
check_nucleus_size(unsorted)

# %% 06.2 the inverse of the temperature
check_temperature_for(lambda z, t: 1 / temperature_for(z, t))

# %% 06.3 the word "teacher" anywhere in a name
def without_the_word(pair):
    return {k: v for k, v in pair.state_dict().items() if "teacher" not in k}
check_own_state(without_the_word)

# %% 06.3 everything
check_own_state(lambda pair: pair.state_dict())
