"""The step on a card, proved without one: fake tensors on a T4 (7.5) and an A100 (8.0) that
`support/traced.py` pretends. No numbers: devices, dtypes, waits, and what is computed in FP64."""
import json, subprocess, sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TRACED = Path(__file__).parents[1] / "support/traced.py"


@pytest.fixture(scope="module", params=["7.5", "8.0"], ids=["T4", "A100"])
def step(request):
    run = subprocess.run([sys.executable, TRACED, request.param], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1]) | dict(is_old=request.param == "7.5")


def test_precision_is_the_cards(step):
    low = "float16" if step["is_old"] else "bfloat16"
    assert (step["precision"], step["scaler"]) == (("fp16", True) if step["is_old"] else
                                                   ("bf16", False))
    assert {tuple(kinds) for *kinds, _, _ in step["logits"]} == {(f"torch.{low}", "torch.float16")}
    assert step["gradients"] == ["torch.float32"]


def test_the_host_waits_for_nothing(step):
    assert step["waits"] == {} and step["device"] == "cuda:0"


def test_validation_does_not_wait_between_batches(step): assert step["validation"] == [0, 0, 0]


def test_nothing_wide_is_computed_in_fp64(step):
    assert step["wide_in_fp64"] == []


def test_keys_are_shared_where_a_fast_kernel_can(step):
    "q heads, kv heads, shared: of the student (6 and 2), and of the teacher."
    ways = {tuple(way[:3]) for way in step["attention"]}
    assert ((6, 2, True) in ways) != step["is_old"]
    if step["is_old"]: assert ways == {(6, 6, False), (4, 4, False)}


def test_operations_of_a_step_stay_few(step):
    assert step["operations"] < 1300, step["by_name"]
