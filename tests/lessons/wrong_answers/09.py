"Likely wrong answers of lesson 09: each is refused by its check."

# %% 09.1 each tensor alone
def clip_each(grads, max_norm):
    for g in grads: g.mul_((max_norm / g.norm()).clamp(max=1))
    return torch.stack([g.norm() for g in grads]).norm()
check_clip(clip_each)

# %% 09.1 always to the limit
def always(grads, max_norm):
    length = torch.stack([g.norm() for g in grads]).norm()
    for g in grads: g.mul_(max_norm / length)
    return length
check_clip(always)

# %% 09.2 a rate that starts at 0
check_wsd(lambda step, *a: wsd(step - 1, *a))

# %% 09.2 below 0 at the end
def goes_on_falling(step, warmup, stable, decay):
    if step < warmup: return (step + 1) / warmup
    return min(1, 1 - (step - warmup - stable) / decay)
check_wsd(goes_on_falling)

# %% 09.3 tensors that go on changing
check_power_cut(lambda *both: [x.state_dict() for x in both], go_on)

# %% 09.3 the optimizer's state is not put back
check_power_cut(keep, lambda student, optimizer, kept: student.load_state_dict(kept[0]))
