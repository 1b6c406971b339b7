"Likely wrong answers of lesson 05: each is refused by its check."

# %% 05.1 the norms too
def norms_too(config, seq):
    attention = config.num_layers * 4 * seq**2 * config.hidden_size
    return 2 * seq * config.num_params + attention
check_flops(norms_too)

# %% 05.1 without attention's own products
def matrices_alone(config, seq):
    matrices = config.num_params - (2 * config.num_layers + 1) * config.hidden_size
    return 2 * seq * matrices
check_flops(matrices_alone)

# %% 05.2 each divided by its own size
@torch.no_grad()
def each_normed(model, ids, token):
    writes = []
    parts = [part for layer in model.layers for part in (layer.attention, layer.ffn)]
    hooks = [part.register_forward_hook(lambda module, args, out: writes.append(out))
             for part in [model.embedding, *parts]]
    model(ids)
    for hook in hooks: hook.remove()
    return [model.norm(w)[0, -1] @ model.head_weight[token] for w in writes]
check_shares(each_normed)

# %% 05.2 right, but the hooks stay on
@torch.no_grad()
def leaves_hooks(model, ids, token):
    writes = [model.embedding(ids)]
    def note(module, args, out): writes.append(out)
    for layer in model.layers:
        for part in layer.attention, layer.ffn: part.register_forward_hook(note)
    model(ids)
    size = sum(writes).square().mean(-1, keepdim=True).add(model.norm.eps).sqrt()
    return [(w / size * model.norm.weight)[0, -1] @ model.head_weight[token] for w in writes]
check_shares(leaves_hooks)

# %% 05.2 right, but it always asks one model
check_shares(lambda model, ids, token: shares(shipped, ids, token))

# %% 05.3 all zeros in the new blocks: they cannot learn
def dead(model, extra):
    taller = grow(model, extra)
    for layer in taller.layers[4:]:
        for p in layer.parameters(): nn.init.zeros_(p)
    return taller
check_grow(dead)

# %% 05.3 fresh blocks on the model that was given
def in_place(model, extra):
    model.layers.extend(TransformerBlock(model.config) for _ in range(extra))
    return model
check_grow(in_place)

# %% 05.3 fresh blocks that write
def writing(model, extra):
    old = model.config.num_layers
    taller = StudentModel(dataclasses.replace(model.config, num_layers=old + extra))
    taller.load_state_dict(model.state_dict(), strict=False)
    return taller
check_grow(writing)
