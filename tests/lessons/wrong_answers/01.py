"Likely wrong answers of lesson 01: each is refused by its check."

# %% 01.1 only the first part is divided
def divides_a_part(x, share, eps=1e-6):
    n = int(share * x.shape[-1])
    return torch.cat([partial_norm(x[..., :n], 1.0, eps), x[..., n:]], -1)
check_partial_norm(divides_a_part)

# %% 01.2 rows are scaled
def scales_rows(norm_weight, linear_weight):
    return linear_weight * norm_weight[:len(linear_weight), None]
check_fold(scales_rows)

# %% 01.3 r is taken for a constant
def constant(x, grad, eps=1e-6): return grad * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
check_norm_backward(constant)

# %% 01.3 a sum in place of the mean
def by_sum(x, grad, eps=1e-6):
    r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return r * grad - r**3 * x * (x * grad).sum(-1, keepdim=True)
check_norm_backward(by_sum)
