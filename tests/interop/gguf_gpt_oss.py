#!/usr/bin/env python3
"""Is a gpt-oss in a GGUF file the same model, here, in llama.cpp and in transformers?

    python tests/interop/gguf_gpt_oss.py --binary target/release/slicegpt-gpu

Needs what tests/interop/gguf.py needs. Writes to a temporary directory alone; ends with 1 if anything disagrees.

  * Files as llama.cpp's converter makes them of the fixtures, experts in MXFP4 or in f32: the program computes what it does from the checkpoint and what
    transformers does, and from MXFP4 what it does from the values that the gguf package makes of it, to the last bit. llama.cpp computes the same.
  * What `export` writes: the same in f32, and in MXFP4, whose bytes are the converter's where those have one way to be.
  * Experts that leave do so from such a file as from the checkpoint that it was made of.
  * Where the ends of yarn's ramp are not rounded, llama.cpp computes what the model would with a ramp whose ends are, and `export` says so.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("export_checks", HERE / "gguf.py")
export_checks = importlib.util.module_from_spec(_spec)
sys.modules["export_checks"] = export_checks
_spec.loader.exec_module(export_checks)

import gguf
import numpy as np
import torch
import transformers
from export_checks import FIXTURES, LOGITS, Check, Model, apart, our_logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from write_gguf import widen

# Its heads are 8 wide: the ramp is between pairs 0 and 2.23, rounded to 3.
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 200, "rope_theta": 500.0}
# A name, the fixture, fields of its config in place of its own, and whether llama.cpp computes just that.
MODELS = [
    ("rounded", "gpt_oss_plain", {"rope_parameters": {**YARN, "truncate": True}}, True),
    ("between", "gpt_oss_plain", {"rope_parameters": {**YARN, "truncate": False}}, False),
    ("unscaled", "gpt_oss_no_sinks", {"layer_types": ["sliding_attention", "full_attention"]}, True),
    ("unbiased", "gpt_oss_tied_yarn", {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "swiglu_alpha": 1.702,
        "rope_parameters": {**YARN, "truncate": True},
    }, True),
    ("mxfp4", "gpt_oss_mxfp4", {"rope_parameters": {**YARN, "truncate": True}}, True),
]
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.router": "ffn_gate_inp", "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# Products of llama.cpp round activations to eight bits where weights are quantised.
ROUNDED = 0.04


def made(check, name, fixture, fields):
    """A fixture with other fields, whose experts have larger values than llama.cpp lets through."""
    directory = check.directory / name
    shutil.copytree(FIXTURES / fixture, directory)
    config = json.loads((directory / "config.json").read_text()) | {"swiglu_limit": 7.0} | fields
    (directory / "config.json").write_text(json.dumps(config))
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for tensor, values in tensors.items():
        if "gate_up_proj" in tensor and values.dtype != torch.uint8:
            tensors[tensor] = values * 8
        elif tensor.endswith("gate_up_proj_scales"):
            tensors[tensor] = values + 2
    save_file(tensors, path, metadata={"format": "pt"})
    return directory, config, json.loads((directory / "tokens.json").read_text())["input_ids"]


def packed(blocks, scales):
    """Blocks [..., 16], in whose bytes neighbours are, as ggml has them: a scale, then values of either half in each byte."""
    blocks, scales = blocks.numpy(), scales.numpy()
    values = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    halves = values[..., :16] | values[..., 16:] << 4
    return np.concatenate([scales[..., None], halves], axis=-1).reshape(*blocks.shape[:-2], -1)


def convert(directory, config, path):
    """The file that llama.cpp's converter makes of a checkpoint, with what is not in MXFP4 in f32."""
    writer = gguf.GGUFWriter(None, "gpt-oss")
    writer.add_type("model")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_sliding_window(config["sliding_window"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    add = lambda name, values: writer.add_tensor(name, np.ascontiguousarray(values.float().numpy()))
    tensors = load_file(directory / "model.safetensors")
    for name, values in tensors.items():
        stem, end = name.rsplit(".", 1)
        if stem in TOP:
            add(f"{TOP[stem]}.{end}", values)
            continue
        _, _, layer, rest = name.split(".", 3)
        rest, _, last = rest.rpartition(".")
        target = f"blk.{layer}."
        if rest in LAYER:
            add(f"{target}{LAYER[rest]}.{last}", values)
        elif last == "sinks":
            add(f"{target}attn_sinks.weight", values)
        elif last.endswith("_blocks"):
            whole = packed(values, tensors[name.replace("_blocks", "_scales")])
            parts = {"down": whole} if last.startswith("down") else {"gate": whole[:, ::2], "up": whole[:, 1::2]}
            for role, part in parts.items():
                writer.add_tensor(f"{target}ffn_{role}_exps.weight", np.ascontiguousarray(part), raw_dtype=gguf.GGMLQuantizationType.MXFP4)
        elif not last.endswith("_scales"):
            bias = last.endswith("_bias")
            rows = values if bias else values.transpose(-1, -2)
            parts = {"down": rows} if last.startswith("down") else {"gate": rows[:, ::2], "up": rows[:, 1::2]}
            for role, part in parts.items():
                add(f"{target}ffn_{role}_exps.{'bias' if bias else 'weight'}", part)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def theirs(path, rows):
    with Model(path) as loaded:
        return [loaded.logits(ids) for ids in rows]


def of_transformers(directory, rows):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].float().numpy() for ids in rows]


def close(check, name, found, wanted, allowed=LOGITS):
    difference = apart(found, wanted)
    check.that(difference <= allowed, f"{name}: logits differ by {difference:.1e} of the largest")


def both_ways(check):
    for name, fixture, fields, exact in MODELS:
        directory, config, rows = made(check, name, fixture, fields)
        (directory / "config.json").write_text(json.dumps(config | {"swiglu_limit": 1e9}))
        unlimited = our_logits(check, directory, rows)
        (directory / "config.json").write_text(json.dumps(config))
        ours = our_logits(check, directory, rows)
        check.that(apart(ours, unlimited) > 100 * LOGITS, f"{name}: some values of experts are cut off")
        if name != "mxfp4":
            close(check, f"{name}: the program and transformers", ours, of_transformers(directory, rows))
        # What llama.cpp computes: the same with a ramp whose ends are rounded.
        wanted = ours
        if not exact:
            config["rope_parameters"]["truncate"] = True
            (directory / "config.json").write_text(json.dumps(config))
            wanted = our_logits(check, directory, rows)
            config["rope_parameters"]["truncate"] = False
            (directory / "config.json").write_text(json.dumps(config))
        converted, wide = check.directory / f"{name}.gguf", check.directory / f"{name}-wide.gguf"
        convert(directory, config, converted)
        widen(converted, wide)
        # A file of the converter does not say that a ramp is rounded: models of the kind have it otherwise.
        read, of_file = our_logits(check, converted, rows), ours
        if config["rope_parameters"].get("truncate"):
            config["rope_parameters"]["truncate"] = False
            (directory / "config.json").write_text(json.dumps(config))
            of_file = our_logits(check, directory, rows)
            config["rope_parameters"]["truncate"] = True
            (directory / "config.json").write_text(json.dumps(config))
        close(check, f"{name}, the converter's file: the program reads the same model", read, of_file)
        check.that(apart(read, our_logits(check, wide, rows)) == 0, f"{name}: logits are those of its values in f32, to the last bit")
        # llama.cpp loads no model of the kind without biases or a head, which export writes.
        if config["attention_bias"]:
            close(check, f"{name}, the converter's file in f32: llama.cpp", theirs(wide, rows), wanted)
        written = check.export(directory, "f32")
        close(check, f"{name}, exported: llama.cpp", theirs(written, rows), wanted)
        close(check, f"{name}, exported: the program", our_logits(check, written, rows), ours)
        if name == "mxfp4":
            small = check.export(directory, "mxfp4")
            close(check, f"{name}, the converter's file as it is: llama.cpp", theirs(converted, rows), wanted, ROUNDED)
            close(check, f"{name}, exported in MXFP4: llama.cpp", theirs(small, rows), wanted, ROUNDED)
            widen(small, wide)
            close(check, f"{name}, exported in MXFP4, in f32: llama.cpp", theirs(wide, rows), wanted)
            close(check, f"{name}, exported in MXFP4: the program", our_logits(check, small, rows), ours)
            same_experts(check, converted, small)
        note = check.run("export", directory, "--format", "gguf", "--type", "f32", "-o", check.directory / "again.gguf", "--force").stderr
        check.that(("yarn's ramp" in note) == (not exact), f"{name}: {'says' if not exact else 'does not say'} that llama.cpp rounds the ends of the ramp")
        if not exact:
            difference = apart(theirs(written, rows), ours)
            check.that(difference > 100 * LOGITS, f"{name}: without it, those of llama.cpp are {difference:.1e} off")


def same_experts(check, converted, small):
    """Values that gguf makes of what was written in MXFP4 are those of the converter's file."""
    ours, theirs = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (small, converted))
    names = [name for name, tensor in theirs.items() if tensor.tensor_type == gguf.GGMLQuantizationType.MXFP4]
    wide = lambda tensor: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    same = all(ours[name].tensor_type == theirs[name].tensor_type and (wide(ours[name]) == wide(theirs[name])).all() for name in names)
    check.that(len(names) == 6 and same, f"{len(names)} tensors of experts in MXFP4 have the values of the converter's")
    again = all((gguf.quants.quantize(wide(theirs[name]), gguf.GGMLQuantizationType.MXFP4) == ours[name].data).all() for name in names)
    check.that(again, "their bytes are those that the gguf package makes of the values")


def experts_leave(check):
    """`prune --experts` from a file gives what it gives from the checkpoint in bf16, which else has its experts in MXFP4 as they were."""
    directory, config, rows = made(check, "whole", "gpt_oss_mxfp4", {"rope_parameters": {**YARN, "truncate": False}})
    file, tokens = check.directory / "whole.gguf", check.directory / "tokens.json"
    convert(directory, config, file)
    tokens.write_text(json.dumps({"input_ids": rows}))
    found = []
    for source in (directory, file):
        output = check.directory / f"less-{source.name}"
        done = check.run("prune", source, "-o", output, "--experts", "0.3", "--examples", tokens, "--dtype", "bf16")
        assert done.returncode == 0, done.stderr
        found.append((load_file(output / "model.safetensors"), our_logits(check, output, rows)))
    (ours, logits), (read, others) = found
    experts = [name for name in ours if "experts" in name and not name.endswith("_bias")]
    same = all(ours[name].dtype == read[name].dtype == torch.bfloat16 and torch.equal(ours[name], read[name]) for name in experts)
    check.that(len(experts) == 4 and same, f"{len(experts)} tensors of experts are the same, in bf16, from a file as from the checkpoint")
    close(check, "experts leave a file as they do the checkpoint", others, logits)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        check = Check(os.path.abspath(arguments.binary), Path(directory))
        for step in (both_ways, experts_leave):
            if not arguments.only or step.__name__ in arguments.only:
                step(check)
    print(f"{check.passed} of {check.passed + len(check.failures)} agree")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
