"Likely wrong answers of tools/browser: each is refused by its check."

# %% browser.1 a gate without its sigmoid
def no_sigmoid(g, x, gate, up, down):
    def linear(x, w): return g.MatMul(x, g.Transpose(w, perm=[1, 0]))
    return linear(g.Mul(linear(x, gate), linear(x, up)), down)
check_swiglu(no_sigmoid)

# %% browser.1 gate and up exchanged
check_swiglu(lambda g, x, gate, up, down: swiglu(g, x, up, gate, down))

# %% browser.2 the first position
def first_only(student):
    model = last_only(student)
    last = next(c for c in model.graph.initializer if c.name == "last")
    last.CopyFrom(onnx.numpy_helper.from_array(np.array([0]), "last"))
    return model
check_last_only(first_only)

# %% browser.2 all positions
check_last_only(student_onnx)
