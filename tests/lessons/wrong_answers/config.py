"Likely wrong answers of engine/config: each is refused by its check."

# %% config.1 the two are never compared
@dataclass(frozen=True)
class Alone(Config):
    total_steps:int = 1000
    warmup_steps:int = 100
    def check(self): self.require("> 0", lambda x: x > 0, "total_steps", "warmup_steps")
check_schedule(Alone)

# %% config.1 a warm-up as long as the whole
@dataclass(frozen=True)
class Equal(Config):
    total_steps:int = 1000
    warmup_steps:int = 100
    def check(self):
        self.require("> 0", lambda x: x > 0, "total_steps", "warmup_steps")
        if self.warmup_steps > self.total_steps: self.fail("warmup_steps", "is too long")
check_schedule(Equal)

# %% config.2 wider heads, not more of them
check_scale(lambda config, times: dataclasses.replace(
    config, hidden_size=times * config.hidden_size,
    intermediate_size=times * config.intermediate_size))

# %% config.2 no more key/value heads
check_scale(lambda config, times: dataclasses.replace(
    scale(config, times), num_kv_heads=config.num_kv_heads))

# %% config.2 the inner width is left behind
check_scale(lambda config, times: dataclasses.replace(
    scale(config, times), intermediate_size=config.intermediate_size))
