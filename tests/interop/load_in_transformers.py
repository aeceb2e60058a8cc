#!/usr/bin/env python3
"""Does transformers load what `slicegpt-gpu run` writes, and compute, generate and train with it as it should?

    python tests/interop/load_in_transformers.py --binary target/release/slicegpt-gpu [--basis BASIS] [NAME ...]

Every model in tests/fixtures/parity (all architectures, several awkward variants each) and the demo model are sliced. The
result is loaded by AutoModelForCausalLM and held against the program itself: all logits, and greedy continuations. The
first model of each architecture is also trained, saved and loaded in 16 bits.
That with a basis for every block, by the code that comes with it, and with one for all, without trust_remote_code where the
result is an ordinary checkpoint; where it is none, the first model of each architecture.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Files beside this one may be called like packages.
HERE = Path(__file__).resolve().parent
sys.path = [str(HERE / "support")] + [path for path in sys.path if Path(path or ".").resolve() != HERE]
os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
from compare import close, logits, same_model
from narrow import Narrowing
from program import DEMO, Program, dense_fixtures, random_rows, write_tokens
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

# Those whose classes in transformers take any width, such that one basis makes an ordinary checkpoint.
STOCK = {"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "phi3", "phi", "gemma", "cohere", "ministral", "qwen3_5_text"}
# Those that have no code of ours: only their stock forms, where they have one, are for transformers.
WITHOUT_CODE = {"bloom", "gemma2", "gemma3", "gemma3_text", "olmo2", "qwen3_5"}
LORA_TARGETS = {
    # Not every layer has attention.
    "qwen3_5_text": ["gate_proj", "up_proj", "down_proj"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
    "gpt_neo": ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"],
    "falcon": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "mpt": ["Wqkv", "out_proj", "up_proj", "down_proj"],
    "starcoder2": ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}
GATED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASES = ("per-block", "shared")


def has_form(config, basis, kind):
    """Whether a model becomes an ordinary checkpoint."""
    return basis == "shared" and kind in STOCK and not config.get("qk_layernorm") and not config.get("use_qk_norm") and \
        (config.get("rope_parameters") or {}).get("rope_type") != "longrope"


class Subject:
    """A sliced model on disk."""

    def __init__(self, program, directory, kind, basis, tied):
        self.program, self.directory, self.kind = program, directory, kind
        self.config = json.loads((directory / "config.json").read_text())
        # The norms of phi's queries and keys are hidden_size / num_attention_heads wide.
        self.stock = has_form(self.config, basis, kind)
        expected = kind if self.stock else f"sliced_{kind}"
        assert self.config["model_type"] == expected, f"model_type {self.config['model_type']}, not {expected}"
        # Layer norms leave two matrices of one.
        self.tied = tied and self.stock and kind not in ("phi", "cohere")
        assert self.stock != ("auto_map" in self.config)

    def load(self, directory=None, **options):
        options = {"dtype": torch.float32, **options}
        if not self.stock:
            options["trust_remote_code"] = True
        model, info = AutoModelForCausalLM.from_pretrained(directory or self.directory, output_loading_info=True, **options)
        assert not any(info.values()), f"not loaded as stored: {info}"
        assert bool(model.config.tie_word_embeddings) == self.tied, "a head stays the embedding in ordinary checkpoints alone"
        same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert same == self.tied, "embedding and head"
        # Otherwise continuations would end before they show anything.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model.eval()


def check_narrowed(subject, model, rows, work):
    """A width of its own at every point, a sliced head, and layers without shortcuts."""
    module = sys.modules[type(model).__module__]
    tables = module if hasattr(module, "ATTENTION") else module.SlicedGatedLayer
    without, explicit = work / "without", work / "explicit"
    attention = [tables.ATTENTION, *([tables.DELTA_NET] if hasattr(tables, "DELTA_NET") else [])]
    missing = Narrowing(subject.directory, attention, tables.MLP).write(without, explicit)
    assert missing > 0
    theirs = logits(subject.load(without), rows)
    for form in (without, explicit):
        close(subject.program.logits(form, rows), theirs, f"with other widths, {form.name}")


def check_saved(subject, model, rows, work):
    """What transformers saves again is the same to both programs."""
    saved = work / "saved"
    model.save_pretrained(saved)
    expected = logits(model, rows)
    close(expected, logits(subject.load(saved), rows), "saved and loaded", 0.0)
    close(subject.program.logits(saved, rows), expected, "saved by transformers, read by the program")


def check_gradients(model, rows):
    """The loss is the mean over next tokens, every parameter has a gradient, and recomputing layers does not change it."""
    ids = torch.tensor([row[:12] for row in rows if len(row) >= 12])
    mean = torch.nn.functional.cross_entropy

    def gradients():
        model.zero_grad()
        out = model(ids, labels=ids)
        expected = mean(out.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        assert abs(out.loss.item() - expected.item()) < 1e-4 * expected.item(), f"loss {out.loss} instead of {expected}"
        out.loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    # Dropout would make the loss another one each time.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    model.train()
    plain = gradients()
    dead = [name for name, gradient in plain.items() if not gradient.any() or not gradient.isfinite().all()]
    assert all(name.endswith(("k_proj.bias", "k_layernorm.bias")) for name in dead), f"no gradient: {dead}"
    model.activation_checkpointing_enable()
    again = gradients()
    scale = max(gradient.abs().max().item() for gradient in plain.values())
    for name, gradient in plain.items():
        assert (gradient - again[name]).abs().max().item() <= 1e-5 * scale, f"checkpointing changes the gradient of {name}"
    model.activation_checkpointing_disable()
    model.eval()


def check_lora(subject, rows):
    """A LoRA adapter on the original names lowers the loss and leaves everything else alone; merged, it computes the same."""
    base = subject.load()
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    targets = LORA_TARGETS.get(subject.kind, GATED)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=subject.kind == "gpt2", task_type="CAUSAL_LM")
    torch.manual_seed(1)
    model = peft.get_peft_model(base, settings)
    layers = base.config.num_hidden_layers
    adapted = sum(name.endswith("lora_A.default.weight") for name, _ in model.named_parameters())
    expected = sum(name.endswith(tuple(f"{target}.weight" for target in targets)) for name in before)
    assert adapted == expected and adapted >= layers * len(targets), f"{adapted} of {expected} layers have an adapter"
    ids = torch.tensor([row[:12] for row in rows if len(row) >= 12])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.02, f"training does not lower the loss: {losses}"
    for name, parameter in model.named_parameters():
        original = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if original in before:
            assert torch.equal(parameter, before[original]), f"training the adapter has changed {original}"
    expected = logits(model.eval(), rows)
    close(expected, logits(model.merge_and_unload(), rows), "merged", 1e-5)
    return losses


def check_16_bits(subject, rows):
    """In bfloat16 and float16, every parameter is, and the logits are those of the rounded weights, about."""
    exact = logits(subject.load(), rows)
    for dtype, tolerance in (torch.bfloat16, 0.1), (torch.float16, 0.02):
        model = subject.load(dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert model(torch.tensor([rows[0]])).logits.dtype == dtype
        close(exact, logits(model, rows), str(dtype), tolerance)


def check_signals(subject, model, rows):
    """The residual of each layer can be asked for and has the width that config.json states."""
    states = model(torch.tensor([rows[0]]), output_hidden_states=True).hidden_states
    if subject.stock:
        widths = {state.shape[-1] for state in states}
        assert len(widths) == 1
        return
    layers = subject.config["slicing"]["layers"]
    expected = [layer["attention_input"] for layer in layers] + [layers[-1]["output"]]
    if subject.kind in ("gpt2", "gptj", "gpt_neo"):
        expected[0] = max(expected[0], expected[-1])
    assert [state.shape[-1] for state in states] == expected


def check_offload(subject, rows):
    """Placed by a device map, and with layers that are fetched when they are needed."""
    from accelerate import cpu_offload

    model = subject.load()
    layers = {type(module).__name__ for module in model.modules() if hasattr(module, "attn_shortcut_Q")}
    assert layers <= set(model._no_split_modules), f"a device map may split {layers}"
    expected = logits(model, rows)
    close(expected, logits(subject.load(device_map="cpu"), rows), "device_map", 0.0)
    close(expected, logits(cpu_offload(subject.load(), "cpu"), rows), "offloaded", 0.0)


def check_model(program, source, basis, work, thorough):
    """Slices one model and checks what comes out; returns the largest relative error of its logits."""
    config = json.loads((source / "config.json").read_text())
    rows = json.loads((source / "tokens.json").read_text())["input_ids"]
    calibration = work / "calibration.json"
    write_tokens(calibration, random_rows(config["vocab_size"], (32, 32, 32, 32, 20, 7), seed=len(source.name)))
    output = work / "sliced"
    options = ["--basis", basis] if basis != "per-block" else []
    # A width that fits nothing, but where it is refused: by LlamaConfig, which wants a multiple of num_attention_heads.
    if basis == "per-block" or config["model_type"] != "llama":
        options += ["--round-interval", 1]
    program.slice(source, output, calibration, "--sparsity", 0.2, *options)
    tied = AutoConfig.from_pretrained(source).tie_word_embeddings
    subject = Subject(program, output, config["model_type"], basis, tied)
    model, _, error = same_model(program, output, config, subject.load, rows)
    if basis == "per-block":
        check_narrowed(subject, model, rows, work)
    if thorough:
        check_signals(subject, model, rows)
        check_saved(subject, model, rows, work)
        check_gradients(model, rows)
        check_lora(subject, rows)
        check_16_bits(subject, rows)
        check_offload(subject, rows)
    return error


def check_demo(program, basis, work):
    """The demo model: what people see first. Its greedy text is the program's, to the last character."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    ids = tokenizer((DEMO / "heldout.txt").read_text()).input_ids
    rows = [ids[start : start + 64] for start in range(0, 1024, 64)]
    calibration, output = work / "calibration.json", work / "sliced"
    write_tokens(calibration, rows)
    options = ["--basis", basis] if basis != "per-block" else []
    program.slice(DEMO, output, calibration, "--sparsity", 0.1, *options)
    tied = AutoConfig.from_pretrained(DEMO).tie_word_embeddings
    subject = Subject(program, output, "llama", basis, tied)
    _, _, error = same_model(program, output, subject.config, subject.load, rows[:3])
    trust = {} if subject.stock else {"trust_remote_code": True}
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32, **trust).eval()
    tokenizer = AutoTokenizer.from_pretrained(output, **trust)
    for prompt in ("One morning", "Felix has a white cup"):
        ids = tokenizer(prompt, return_tensors="pt")
        new = model.generate(**ids, max_new_tokens=40, do_sample=False)[0]
        theirs = tokenizer.decode(new, skip_special_tokens=True)
        ours = program("generate", output, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 40)
        assert ours.rstrip("\n") == theirs, f"the program writes {ours!r}, transformers {theirs!r}"
    check_saved(subject, subject.load(), rows[:2], work)
    check_lora(subject, rows)
    return error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the slicegpt-gpu to test")
    parser.add_argument("--basis", choices=BASES, help="what `run` is asked for; one after the other if not given")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only the models whose names start so")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    program = Program(arguments.binary)

    sources = dense_fixtures()
    kinds = {}
    for source in sources:
        kinds.setdefault(json.loads((source / "config.json").read_text())["model_type"], source)
    chosen = [source for source in [*sources, DEMO] if not arguments.names or source.name.startswith(tuple(arguments.names))]
    assert chosen, f"no model is called {arguments.names}"
    failed = []
    begin = time.monotonic()
    def for_transformers(basis, source):
        config = json.loads((source / "config.json").read_text())
        # Where one basis makes no ordinary checkpoint, it makes what a basis for each block does, without shortcuts.
        with_code = config["model_type"] not in WITHOUT_CODE and (basis == "per-block" or source in kinds.values())
        return with_code or has_form(config, basis, config["model_type"])

    bases = [basis for basis in BASES if arguments.basis in (None, basis)]
    tried = [(basis, source) for basis in bases for source in chosen if for_transformers(basis, source)]
    for basis, source in tried:
        start = time.monotonic()
        name = f"{basis:9} {source.name}"
        with tempfile.TemporaryDirectory() as work:
            try:
                if source == DEMO:
                    error = check_demo(program, basis, Path(work))
                else:
                    error = check_model(program, source, basis, Path(work), source in kinds.values())
            except Exception as reason:
                failed.append(name)
                print(f"{name:42} FAILED: {type(reason).__name__}: {reason}", flush=True)
                if arguments.names:
                    raise
                continue
        print(f"{name:42} ok  largest error {error:.0e}  {time.monotonic() - start:4.1f} s", flush=True)
    print(f"{len(tried) - len(failed)} of {len(tried)} models, {time.monotonic() - begin:.0f} s; "
          f"transformers {transformers.__version__}, torch {torch.__version__}, peft {peft.__version__}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
