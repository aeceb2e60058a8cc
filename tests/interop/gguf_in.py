#!/usr/bin/env python3
"""Does the program compute from a GGUF file what llama.cpp and transformers compute?

    python tests/interop/gguf_in.py --binary target/release/slicegpt-gpu [--model FILE.gguf ...]

Needs what tests/interop/gguf.py needs. Writes to a temporary directory alone; ends with 1 if anything disagrees.

  * Parity fixtures of every architecture that is read, as llama.cpp's converter would write them: logits of the file agree with those of transformers that
    lie beside the fixture, and llama.cpp's agree as well, so that the file is one of its own kind.
  * The same in types that the gguf package quantises to: logits agree with llama.cpp's to within what its quantised products differ.
  * Files that the gguf package splits: logits are those of the whole file, whichever is named.
  * Tokenizers of every kind through a file, by every name that llama.cpp has for them: the tokens of what a run makes of it, against llama.cpp.
  * Each --model: logits against llama.cpp.
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
import tokenizers
from export_checks import FIXTURES, TEXTS, Check, Model, apart, our_logits, safetensors
from write_gguf import ARCHITECTURES, widen, write

# What llama.cpp does not load or computes otherwise, with the reason: compared with transformers alone.
NOT_IN_LLAMA_CPP = {
    "starcoder2_head_dim": "queries as wide as the model",
    "starcoder2_no_bias": "biases",
    "phi3_window": "no windows for phi3",
    "gpt_neox_tied": "a head of its own",
    "gpt_neox_odd_rotary": "an odd number of coordinates",
}
# It has a table of f16 for its gelu, the tanh approximation, which it also takes for gpt_neox's own.
GELU = {"gpt2", "gpt_neox", "phi", "starcoder2"}
# What a file has no words for, so that the program cannot know it either.
NOT_IN_GGUF = {
    "smollm3_interval_2", "smollm3_listed", "smollm3_window", "starcoder2_window", "llama_gelu", "llama_gelu_pytorch_tanh", "qwen3_bias", "qwen2_layer_types",
    "qwen2_window", "qwen2_old_config_window", "qwen3_window", "mistral_window", "mistral_head_dim", "gpt2_gelu", "gpt2_relu", "gpt2_inverse_layer", "gpt2_unscaled",
    "phi_qk_layernorm", "gpt_neox_no_attention_bias", "gpt2_hub_names", "phi3_partial_rotary", "llama_sharded",
}
LOGITS = 1e-5


def fixtures(check):
    for fixture in sorted(FIXTURES.iterdir()):
        model_type = json.loads((fixture / "config.json").read_text())["model_type"]
        if model_type not in ARCHITECTURES or fixture.name in NOT_IN_GGUF:
            continue
        if "yarn" in fixture.name or "longrope" in fixture.name or fixture.name in ("llama_f16", "llama_bf16", "granite_f16"):
            continue
        rows = json.loads((fixture / "tokens.json").read_text())["input_ids"]
        beside = safetensors(fixture / "logits.safetensors")
        wanted = [beside[f"logits.{row}"] for row in range(len(rows))]
        path = check.directory / f"{fixture.name}.gguf"
        write(fixture, path, safetensors(fixture / "model.safetensors"))
        try:
            difference = apart(our_logits(check, path, rows), wanted)
        except RuntimeError as error:
            check.that(False, f"{fixture.name}: {error}")
            continue
        check.that(difference <= LOGITS, f"{fixture.name}: logits differ by {difference:.1e} of the largest from those of transformers")
        if fixture.name in NOT_IN_LLAMA_CPP:
            continue
        try:
            with Model(path) as loaded:
                difference = apart([loaded.logits(ids) for ids in rows], wanted)
        except RuntimeError as error:
            check.that(False, f"{fixture.name}: {error}")
            continue
        check.that(difference <= (2e-3 if model_type in GELU else LOGITS), f"{fixture.name}: those of llama.cpp by {difference:.1e}")


def quantised(check):
    """What the gguf package quantises: as the same values in f32, exactly; and as llama.cpp, which rounds activations to eight bits, by what that costs."""
    for name in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16"):
        for fixture in ("qwen3_untied", "gpt_neox_parallel", "llama_head_dim"):
            path = check.directory / f"{fixture}-{name}.gguf"
            rows = json.loads((FIXTURES / fixture / "tokens.json").read_text())["input_ids"]
            write(FIXTURES / fixture, path, safetensors(FIXTURES / fixture / "model.safetensors"), gguf.GGMLQuantizationType[name])
            ours = our_logits(check, path, rows)
            wide = check.directory / "wide.gguf"
            widen(path, wide)
            check.that(apart(ours, our_logits(check, wide, rows)) == 0, f"{fixture} in {name}: logits are those of its values in f32")
            with Model(path) as loaded:
                difference = apart(ours, [loaded.logits(ids) for ids in rows])
            check.that(difference <= 0.04, f"{fixture} in {name}: logits differ by {difference:.1e} of the largest from those of llama.cpp")


def split(check):
    """Files that the gguf package splits: whichever is named, logits are those of the whole file, and llama.cpp reads them as well."""
    for fixture, kind, small in [("qwen3_untied", "Q8_0", False), ("llama_rope_llama3", None, True), ("gpt2_tied", None, False)]:
        rows = json.loads((FIXTURES / fixture / "tokens.json").read_text())["input_ids"]
        whole, name = check.directory / f"{fixture}-whole.gguf", f"{fixture}-split"
        write(FIXTURES / fixture, whole, safetensors(FIXTURES / fixture / "model.safetensors"), kind and gguf.GGMLQuantizationType[kind])
        reader = gguf.GGUFReader(whole)
        writer = gguf.GGUFWriter(None, reader.fields["general.architecture"].contents(), split_max_tensors=4, small_first_shard=small)
        copy(reader, writer, check.directory / f"{name}.gguf")
        files = sorted(check.directory.glob(f"{name}-*-of-*.gguf"))
        empty = len(gguf.GGUFReader(files[0]).tensors) == 0
        check.that(len(files) > 4 and empty == small, f"{name}: {len(files)} files, the first one {'without' if empty else 'with'} tensors")
        expected = our_logits(check, whole, rows)
        for file in (files[0], files[2], files[-1]):
            check.that(apart(our_logits(check, file, rows), expected) == 0, f"{file.name}: logits are those of the whole file")
        with Model(files[0]) as loaded, Model(whole) as one:
            same = apart([loaded.logits(ids) for ids in rows], [one.logits(ids) for ids in rows])
        check.that(same == 0, f"{name}: llama.cpp takes the files for the whole one, too")


def run(check, model, name):
    """What `run` makes of a model, on random tokens: an ordinary checkpoint."""
    reader = gguf.GGUFReader(model)
    size = int(next(tensor.shape[1] for tensor in reader.tensors if tensor.name == "token_embd.weight"))
    tokens, output = check.directory / "calibration.json", check.directory / name
    tokens.write_text(json.dumps({"input_ids": np.random.default_rng(0).integers(0, size, (4, 32)).tolist()}))
    result = check.run("run", model, "-o", output, "--basis", "shared", "--calibration", tokens, "--force")
    if result.returncode != 0:
        raise RuntimeError(f"run {model}: {result.stderr.strip()}")
    return output


def vocabularies(check):
    """Tokenizers of every kind through a GGUF file: what the output of a run has for one, against llama.cpp and the original."""
    from transformers import AutoTokenizer

    for number, (name, tokenizer) in enumerate(export_checks.tokenizer_kinds()):
        directory = check.directory / f"kind-{number}"
        shutil.copytree(FIXTURES / "llama_gqa_tied", directory)
        config = json.loads((directory / "config.json").read_text())
        config["vocab_size"] = tokenizer.get_vocab_size() + 5
        (directory / "config.json").write_text(json.dumps(config))
        export_checks.resize(directory / "model.safetensors", "model.embed_tokens.weight", config["vocab_size"])
        tokenizer.save(str(directory / "tokenizer.json"))
        path = check.export(directory, "f16")
        output = run(check, path, f"run-{number}")
        ours, theirs = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json")), AutoTokenizer.from_pretrained(output)
        with Model(path) as loaded:
            compare(check, f"tokenizer {name}", ours, theirs, loaded, tokenizer)
        # The same under each other name that llama.cpp has for it.
        for other in ALIASES.get(name, []):
            renamed = check.directory / "renamed.gguf"
            rewrite(path, renamed, {"tokenizer.ggml.pre": other})
            output = run(check, renamed, "renamed")
            ours, theirs = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json")), AutoTokenizer.from_pretrained(output)
            try:
                with Model(renamed) as loaded:
                    compare(check, f"tokenizer {other}", ours, theirs, loaded, None)
            except RuntimeError as error:
                check.that(False, f"tokenizer {other}: {str(error)[-200:]}")


# Names by which llama.cpp cuts words as by another, or in a way that is read alone.
ALIASES = {
    "gpt-2": ["phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling", "default", "falcon"],
    "smollm": ["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    "smaug-bpe": ["dbrx", "chatglm-bpe", "gpt-4o"],
    "qwen2": ["stablelm2", "hunyuan", "deepseek-r1-qwen", "megrez"],
}


def compare(check, name, ours, theirs, loaded, original):
    for text in TEXTS:
        expected = loaded.tokens(text)
        if ours.encode(text).ids != expected or theirs(text).input_ids != expected:
            print(f"      {text!r}: {ours.encode(text).ids} and {theirs(text).input_ids} instead of {expected}")
    same = all(ours.encode(text).ids == loaded.tokens(text) == theirs(text).input_ids for text in TEXTS)
    same &= original is None or all(original.encode(text).ids == ours.encode(text).ids for text in TEXTS)
    check.that(same, f"{name}: {len(TEXTS)} texts become the tokens of llama.cpp, in tokenizers and AutoTokenizer")


def copy(reader, writer, target):
    """Writes what another file has as it is."""
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
    copy_tensors(reader, writer, target)


def copy_tensors(reader, writer, target):
    """Writes the file with the tensors of another."""
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file(target)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rewrite(path, target, changes, without=()):
    """The same file with other metadata, and without what begins so."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(None, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture" and not key.startswith(without or "?"):
            writer.add_key_value(key, changes.pop(key, field.contents()), field.types[0], field.types[1] if len(field.types) > 1 else None)
    for key, value in changes.items():
        kind = gguf.GGUFValueType.UINT32 if key.endswith("_token_id") else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, kind, gguf.GGUFValueType.get_type(value[0]) if kind == gguf.GGUFValueType.ARRAY else None)
    copy_tensors(reader, writer, target)


def unigram(check):
    """A vocabulary of likeliest pieces, as T5 has it, with and without what llama.cpp can do to spaces."""
    from tokenizers import models, pre_tokenizers, trainers

    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    text = (export_checks.DEMO / "calibration.txt").read_text()[:100_000]
    trained.train_from_iterator([text] + TEXTS, trainers.UnigramTrainer(vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    directory = check.directory / "unigram"
    shutil.copytree(FIXTURES / "llama_gqa_tied", directory)
    config = json.loads((directory / "config.json").read_text())
    config["vocab_size"] = len(pieces)
    (directory / "config.json").write_text(json.dumps(config))
    export_checks.resize(directory / "model.safetensors", "model.embed_tokens.weight", len(pieces))
    path, file = check.export(directory, "f16", "--no-tokenizer"), check.directory / "unigram.gguf"
    for prefix, merged in [(True, True), (True, False), (False, False)]:
        rewrite(path, file, {
            "tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": [piece for piece, _ in pieces], "tokenizer.ggml.scores": [float(score) for _, score in pieces],
            "tokenizer.ggml.token_type": [3, 3, 2] + [1] * (len(pieces) - 3), "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 2,
            "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True,
            "tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.remove_extra_whitespaces": merged,
        }, "tokenizer.")
        output = run(check, file, "unigram-run")
        from transformers import AutoTokenizer
        ours, theirs = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json")), AutoTokenizer.from_pretrained(output)
        with Model(file) as loaded:
            compare(check, f"unigram, {'a space before' if prefix else 'none before'}, {'one' if merged else 'all'} between", ours, theirs, loaded, None)


def given(check, path):
    """A file of the user's: logits are those that llama.cpp has of its values in f32, and near to those of the file itself."""
    rows = [[1, 5, 9, 200, 300, 7, 8, 15, 99, 64]]
    ours, wide = our_logits(check, path, rows), check.directory / "wide.gguf"
    widen(path, wide)
    for file, most in [(wide, 1e-4), (path, 0.1)]:
        with Model(file) as loaded:
            difference = apart(ours, [loaded.logits(ids) for ids in rows])
        check.that(difference <= most, f"{path}: logits differ by {difference:.1e} of the largest from those of llama.cpp {'in f32' if file == wide else ''}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        check = Check(os.path.abspath(arguments.binary), Path(directory))
        for step in (fixtures, quantised, split, vocabularies, unigram):
            if not arguments.only or step.__name__ in arguments.only:
                step(check)
        for path in arguments.model:
            given(check, path)
    print(f"{check.passed} of {check.passed + len(check.failures)} agree")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
