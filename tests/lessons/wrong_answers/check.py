"Likely wrong answers of tools/check: each is refused by its check."

# %% check.1 the gradient of both together hides a missing one
def at_half(loss):
    s, t = torch.randn(2, 6, 9, requires_grad=True), torch.randn(2, 6, 9)
    value = loss(s, t, torch.randint(9, (2, 6)), 0.5, 2.)
    assert value.requires_grad and torch.autograd.grad(value, s)[0].norm() > 1e-3
check_terms(at_half)

# %% check.1 the labels alone
def labels_alone(loss):
    s, t = torch.randn(2, 6, 9, requires_grad=True), torch.randn(2, 6, 9)
    value = loss(s, t, torch.randint(9, (2, 6)), 0., 2.)
    assert value.requires_grad and torch.autograd.grad(value, s)[0].norm() > 1e-3
check_terms(labels_alone)

# %% check.2 labels that are all alike
def all_alike(loss):
    labels = torch.ones(2, 6, dtype=torch.long)
    assert loss(50. * F.one_hot(labels, 9), torch.zeros(2, 6, 9), labels, 0., 1.) < 1e-3
check_shift(all_alike)

# %% check.3 pieces of the same length
def equally_long(loss):
    s, t, labels = torch.randn(2, 6, 9), torch.randn(2, 6, 9), torch.randint(9, (2, 6))
    parts = [loss(s[i:i + 1], t[i:i + 1], labels[i:i + 1], 0.5, 2., 10) for i in (0, 1)]
    assert torch.isclose(sum(parts), loss(s, t, labels, 0.5, 2.), rtol=1e-4)
check_pieces(equally_long)

# %% check.3 the label that nothing predicts is counted
def one_too_many(loss):
    s, t, labels = torch.randn(2, 6, 9), torch.randn(2, 6, 9), torch.randint(9, (2, 6))
    labels[1, :4] = IGNORE
    n = (labels != IGNORE).sum().item()
    parts = [loss(s[i:i + 1], t[i:i + 1], labels[i:i + 1], 0.5, 2., n) for i in (0, 1)]
    assert torch.isclose(sum(parts), loss(s, t, labels, 0.5, 2.), rtol=1e-4)
check_pieces(one_too_many)
