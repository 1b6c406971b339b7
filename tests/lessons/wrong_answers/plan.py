"Likely wrong answers of tools/plan: each is refused by its check."

# %% plan.1 all of the card
check_cards_for(lambda num_params, gb: math.ceil(16 * num_params / (gb * 1e9)))

# %% plan.1 the weights alone
check_cards_for(lambda num_params, gb: cards_for(num_params / 4, gb))

# %% plan.1 rounded down
check_cards_for(lambda num_params, gb: max(1, int(16 * num_params / ((gb - _RESERVED) * 1e9))))
