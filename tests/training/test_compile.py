"The loss as a GPU runs it, compiled, and where compiling fails; both can be tried on a CPU."
import logging, os, subprocess, sys
import pytest, torch
from distill_nb.loss import fused_kernel, in_cache

SETTINGS = 0.5, 2., 4000 # alpha, temperature, vocabulary

@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_is_the_same(dtype):
    torch.manual_seed(0)
    kernel = fused_kernel(torch.device("cpu"), (dtype, dtype), 4032, *SETTINGS)
    assert kernel is not in_cache
    for rows in (64, 17, 64): # a last chunk is shorter
        s, t = (3 * torch.randn(2, rows, 4032)).to(dtype)
        y, s2 = torch.randint(4000, (rows,)), s.clone()
        one = torch.ones(())
        torch.testing.assert_close(kernel(s, t.clone(), y, *SETTINGS, one),
                                   in_cache(s2, t, y, *SETTINGS, one), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(s, s2, rtol=torch.finfo(dtype).eps, atol=1e-7)

@pytest.mark.slow
def test_no_compiler_is_one_warning(tmp_path):
    code = """
import logging, torch; from distill_nb.loss import fused_kernel, in_cache
logging.basicConfig()
cpu, dtypes = torch.device("cpu"), (torch.float32,) * 2
for columns in (128, 192): assert fused_kernel(cpu, dtypes, columns, 0.5, 2., 100) is in_cache"""
    env = os.environ | dict(CXX="/bin/false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("torch.compile does not work on this machine") == 1, ran.stderr
