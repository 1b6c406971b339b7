"The loss as a GPU runs it, compiled, and where compiling fails; both can be tried on a CPU."
import os, subprocess, sys
import pytest, torch
from distill_nb.chunks import _chunk_loss, _tiled_chunk_loss
from distill_nb.kernel import _fast_chunk_loss, _kd_rows

SETTINGS = 0.5, 2., 4000 # alpha, temperature, vocabulary

@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_is_the_same(dtype):
    torch.manual_seed(0)
    cpu = torch.device("cpu")  # where the kernel does not run
    compiled = _fast_chunk_loss(_chunk_loss, cpu, 4032, dtype, dtype, *SETTINGS)
    assert compiled not in (None, _kd_rows)
    one = torch.ones(())
    for rows in (64, 17, 64): # a last chunk is shorter
        s, t = (3 * torch.randn(2, rows, 4032)).to(dtype)
        y, s2 = torch.randint(4000, (rows,)), s.clone()
        ours = compiled(s, t.clone(), y, *SETTINGS, one)
        right = _tiled_chunk_loss(s2, t, y, *SETTINGS, one)
        torch.testing.assert_close(ours, right, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(s, s2, rtol=torch.finfo(dtype).eps, atol=1e-7)

@pytest.mark.slow
def test_no_compiler_is_one_warning(tmp_path):
    code = """
import logging, torch
from distill_nb.chunks import _chunk_loss
from distill_nb.kernel import _fast_chunk_loss
logging.basicConfig()
for columns in (128, 192):
    tried = torch.device("cpu"), columns, torch.float32, torch.float32
    assert not _fast_chunk_loss(_chunk_loss, *tried, 0.5, 2., 100)"""
    env = os.environ | dict(CXX="/bin/false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("WARNING:distill_nb:neither Triton (") == 1, ran.stderr
    assert ran.stderr.count("WARNING") == 1 and "works on this machine" in ran.stderr
