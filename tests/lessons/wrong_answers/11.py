"Likely wrong answers of lesson 11: each is refused by its check."

# %% 11.1 names that only lose their prefix
check_back(lambda name: name.removeprefix("model."))

# %% 11.2 a forgotten norm_eps
import dataclasses
def forgetful(llama):
    student = StudentModel(dataclasses.replace(from_llama(llama).config, norm_eps=1e-6))
    student.load_state_dict(from_llama(llama).state_dict())
    return student
check_from(forgetful)

# %% 11.2 the longest text of another model
import dataclasses
def of_tiny_length(llama):
    student = from_llama(llama)
    longer = dataclasses.replace(student.config, max_seq_len=2 * student.config.max_seq_len)
    other = StudentModel(longer)
    other.load_state_dict(student.state_dict())
    return other
check_from(of_tiny_length)

# %% 11.3 a folder in full size
check_half(lambda student, path: save_hf(student, None, path))

# %% 11.3 the student in memory is halved as well
before = {name: w.clone() for name, w in student.state_dict().items()}
check_half(lambda student, path: save_hf(student.bfloat16(), None, path))
student.float().load_state_dict(before, strict=False)

# %% 11.4 rows left as they are
check_halves(lambda w, heads: w)

# %% 11.4 mixed across heads
check_halves(lambda w, heads: to_halves(w, 1))
