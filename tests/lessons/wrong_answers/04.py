"Likely wrong answers of lesson 04: each is refused by its check."

# %% 04.1 rounded down
check_fair_width(lambda h, multiple=256: 8*h//3 // multiple * multiple)

# %% 04.1 always one multiple more
check_fair_width(lambda h, multiple=256: (8*h//3 // multiple + 1) * multiple)

# %% 04.2 the activation of the value
check_gated(lambda g, v, act: act(v) * g)

# %% 04.3 in the wrong order
def in_wrong_order(f):
    gate_up = torch.cat([f.up_proj.weight, f.gate_proj.weight])
    return {"gate_up_proj.weight": gate_up, "down_proj.weight": f.down_proj.weight}
check_fuse(in_wrong_order)

# %% 04.3 beside each other, not above
def side_by_side(f):
    gate_up = torch.cat([f.gate_proj.weight, f.up_proj.weight], 1)
    return {"gate_up_proj.weight": gate_up, "down_proj.weight": f.down_proj.weight}
check_fuse(side_by_side)

# %% 04.4 the first half twice
check_halve(lambda f: [halve(f)[0], halve(f)[0]])

# %% 04.4 two whole layers
check_halve(lambda f: [f, f])
