"Likely wrong answers of tools/demo: each is refused by its check."

# %% demo.1 not in pairs
def apart(a, b):
    return mean(b) - mean(a), math.sqrt((stdev(a)**2 + stdev(b)**2) / len(a))
check_paired_error(apart)

# %% demo.1 divided by n
def of_all(a, b):
    middle, error = paired_error(a, b)
    return middle, error * math.sqrt((len(a) - 1) / len(a))
check_paired_error(of_all)

# %% demo.1 how far the seeds spread
def spread(a, b): return paired_error(a, b)[0], paired_error(a, b)[1] * math.sqrt(len(a))
check_paired_error(spread)

# %% demo.2 a teacher that costs as much as a student
check_equal_work(lambda steps, student, teacher: round(steps * (1 + teacher / student)))

# %% demo.2 a teacher for free
check_equal_work(lambda steps, student, teacher: steps)

# %% demo.3 above zero alone
check_agree_by_chance(lambda seeds: 0.5**seeds)

# %% demo.4 one step for the whole matrix
def one_step(w, bits):
    step = w.abs().max() / (2**(bits - 1) - 1)
    return (w / step).round() * step
check_rounded(one_step)

# %% demo.4 twice as many steps
check_rounded(lambda w, bits: rounded(w, bits + 1))

# %% demo.4 cut off, not rounded
def cut(w, bits):
    step = w.abs().amax(1, keepdim=True) / (2**(bits - 1) - 1)
    return (w / step).trunc() * step
check_rounded(cut)
