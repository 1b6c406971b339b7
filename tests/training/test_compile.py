"Loss and step as a GPU runs them, compiled, and where compiling fails; all can be tried on a CPU."
import os, subprocess, sys
import pytest, torch
from functools import partial
from unittest import mock
from shell import run
from distill_nb.chunks import _chunk_loss, _tiled_chunk_loss
from distill_nb.cli import main
from distill_nb.device import _with_compiled_layers
from distill_nb.kernel import _fast_chunk_loss, _kd_rows
from distill_nb.meter import read_metrics

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

def _train(folder, *flags):
    argv = ("train", "--preset", "tiny", "--max-steps", "6", "--log-interval", "1", *flags,
            "--eval-interval", "3", "--eval-batches", "2", "--checkpoint-dir", str(folder))
    assert main(argv) == 0
    return [{k: row[k] for k in ("step", "loss", "grad_norm", "valid") if k in row}
            for row in read_metrics(folder)]

@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "--gradient-checkpointing --accumulate 2"])
def test_a_compiled_run_takes_the_same_steps(tmp_path, flags):
    torch.compiler.reset()
    traced = []
    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward
    compiled = partial(torch.compile, backend=backend, dynamic=False)
    def both(student, teacher, device): # as on a card, but for the kernels
        with mock.patch("torch.compile", lambda f, **kwargs: compiled(f)):
            return _with_compiled_layers(student).hidden, compiled(teacher.hidden)
    plain = _train(tmp_path / "plain", *flags.split())
    with mock.patch("distill_nb.trainer._compile_hidden", both):
        assert _train(tmp_path / "compiled", "--compile", *flags.split()) == plain
    assert len(traced) == 2 # the teacher and one layer; validations are not compiled

def test_compile_is_refused_in_a_line(capsys, tmp_path):
    argv = "train", "--preset", "tiny", "--device", "cpu", "--compile", "--checkpoint-dir"
    assert main([*argv, str(tmp_path / "run")]) == 2
    assert "compile=True is for a CUDA card; leave it out" in capsys.readouterr().err

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("flags", ["", "--gradient-checkpointing --accumulate 2"])
def test_a_compiled_run_resumes_exactly(tmp_path, flags):
    folder = str(tmp_path / "run")
    argv = "verify-resume", "--preset", "tiny", "--compile", *flags.split()
    status, out, err = run(*argv, "--checkpoint-dir", folder)
    assert status == 0 and "the same to the last bit" in out, out + err
