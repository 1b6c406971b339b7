"Likely wrong answers of tools/verify: each is refused by its check."

# %% verify.1 integers that are not turned around below zero
def same_direction(a, b): return (a.view(torch.int32).long() - b.view(torch.int32).long()).abs()
check_steps_between(same_direction)

# %% verify.1 in units of the last digit at 1
check_steps_between(lambda a, b: ((a - b).abs() / 2**-23).long())

# %% verify.2 a sum of probabilities
check_kills_needed(lambda window, period, chance: math.ceil(chance * period / window))

# %% verify.2 every kill hits it
def all_of_them(window, period, chance):
    return max(1, math.ceil(math.log(chance) / math.log(window / period)))
check_kills_needed(all_of_them)

# %% verify.3 nothing is ever forgotten
check_saved_again(lambda forget, folder: saved_again(lambda trainer: None, folder))

# %% verify.3 the same folder a second time
def same_folder(forget, folder):
    new_trainer(folder / "once", 3).fit()
    once = _read_result(folder / "once")
    return _first_difference(_read_result(folder / "once"), once)
check_saved_again(same_folder)
