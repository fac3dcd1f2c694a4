#!/usr/bin/env bash
# transformers reads a LLaMA from a GGUF file and leaves out its rotary scaling and its biases.
#
# Versions: transformers 5.23.0, gguf 0.19.0, torch 2.13.0, numpy 2.4.6 (Python 3.11).
# Behavior: from_pretrained(gguf_file=...) gives exact logits for a plain model. A file with the keys
#   llama.rope.scaling.type and .factor gives a model without scaling; a file with the tensors blk.N.attn_q.bias ...
#   gives a model without biases. Neither is told, and the loading bar reads 100 %.
# Seen (largest difference of the logits):
#   plain 0.0, linear rotary scaling 0.64, attention biases 1.6
# Expected: the keys are in the GGUF specification and llama.cpp reads both, so either the same logits, or a refusal
#   to load what is not understood.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6,
)
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
}


def interleave(x, heads):
    """Put the two halves of each head's rows into pairs, as GGUF stores them."""
    return x.view(heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def write(path, model, factor):
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64), w.add_embedding_length(32), w.add_block_count(1), w.add_feed_forward_length(48)
    w.add_head_count(4), w.add_head_count_kv(2), w.add_layer_norm_rms_eps(1e-6), w.add_rope_freq_base(10000.0)
    w.add_vocab_size(64), w.add_tokenizer_model("gpt2"), w.add_token_list([f"t{i}" for i in range(64)])
    w.add_token_types([1] * 64), w.add_token_merges(["t 1"]), w.add_bos_token_id(1), w.add_eos_token_id(2)
    if factor:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(factor)
    for name, tensor in model.state_dict().items():
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
        for theirs, ggufs in NAMES.items():
            name = name.replace(theirs, ggufs)
        w.add_tensor(name, (interleave(tensor, heads) if heads else tensor).contiguous().numpy())
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


@torch.no_grad()
def difference(name, factor=None, **fields):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **fields)).eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.3)
    write(f"{name}.gguf", model, factor)
    read = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{name}.gguf", dtype=torch.float32).eval()
    ids = torch.arange(3, 43)[None]
    d = (model(ids).logits - read(ids).logits).abs().max().item()
    print(f"{name}: largest difference of the logits {d:.2g}; {read.config.rope_parameters}")
    return d


plain = difference("plain")
scaled = difference("scaled", 4.0, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
biased = difference("biased", attention_bias=True)
if not (plain < 1e-5 and scaled > 0.05 and biased > 0.05):
    sys.exit("changed: the plain file was exact before, the other two were not")
PY
timeout 300 venv/bin/python see.py
