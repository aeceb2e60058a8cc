#!/usr/bin/env python3
"""slicegpt-gpu beside PyTorch on the same GPU: matrix products, and slicing a whole OPT-shaped model.

PyTorch's side of the slicing is the algorithm of the paper's implementation, written anew: float64 covariances and eigenproblems on the device, each
layer run twice. It keeps the residual on the device, and leaves out writing the result; slicegpt-gpu's seconds include its files. That both computed
the same is checked by the energy that each site keeps.

    make compare-gpu                                      everything, at the sizes of real models
    python3 benches/compare_pytorch.py --layers 2 --nsamples 8 --seqlen 512
Needs PyTorch, and nothing else.
"""

import argparse
import json
import mmap
import platform
import shutil
import statistics
import struct
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Matrix products


def seconds_of_product(m, n, k, dtype, device, samples=11, least=0.05):
    """The median time of x·wᵀ, of samples that take `least` seconds each."""
    x, w = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)

    def measure(repeats):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(repeats):
            x @ w.T
        synchronize(device)
        return (time.perf_counter() - began) / repeats

    measure(3)
    repeats = max(1, round(least / measure(3)))
    return statistics.median(measure(repeats) for _ in range(samples))


def compare_products(options, device):
    command = [options.program, "bench", "--json"]
    for name in options.products:
        command += ["--filter", name]
    if options.device:
        command += ["--adapter", options.device]
    [run] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["adapters"]
    rows = []
    for row in run["rows"]:
        if row["name"].startswith("probe/"):
            continue
        if not row["valid"]:
            raise SystemExit(f"{row['name']} is invalid: {row['check'] or row['problem']}")
        m, n, k = (row["sizes"][size] for size in "mnk")
        rate = {dtype: 2e-9 * m * n * k / seconds_of_product(m, n, k, getattr(torch, dtype), device) for dtype in options.dtypes}
        rows.append({"name": row["name"], "ours": row["figures"]["rate"], "percent_of_peak": row["figures"]["percent_of_peak"], **rate})
    return {"adapter": run["adapter"]["name"], "rows": rows}


# Slicing


def read_checkpoint(directory):
    """All tensors, mapped from the files."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        (length,) = struct.unpack("<Q", data[:8])
        for name, tensor in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                count = (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // DTYPES[tensor["dtype"]].itemsize
                values = torch.frombuffer(data, dtype=DTYPES[tensor["dtype"]], count=count, offset=8 + length + tensor["data_offsets"][0])
                tensors[name] = values.view(tensor["shape"])
    return tensors


class Slicer:
    """SliceGPT of an OPT model with one width; linear weights are [out, in], signals are rows."""

    def __init__(self, directory, sparsity, dtype, device):
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors, self.dtype, self.device = read_checkpoint(directory), dtype, device
        self.hidden, self.heads = self.config["hidden_size"], self.config["num_attention_heads"]
        self.width = int((1 - sparsity) * self.hidden + 1e-9) // 8 * 8
        self.kept = []

    def get(self, name):
        return self.tensors["model.decoder." + name].to(self.device, torch.float32)

    def linear(self, name, norm=None, writes=False):
        """Weight and bias, with the norm that is read and the mean that the next norm would subtract in them."""
        weight, bias = self.get(name + ".weight"), self.get(name + ".bias")
        if norm:
            weight, bias = weight * self.get(norm + ".weight"), bias + weight @ self.get(norm + ".bias")
        if writes:
            weight, bias = weight - weight.mean(0), bias - bias.mean()
        return weight, bias

    def norm(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).sum(-1, keepdim=True) / self.hidden + 1e-5)).to(self.dtype)

    def axes(self, batches):
        """The principal axes of the signals as columns, in float64, and how much energy the first `width` keep."""
        covariance = torch.zeros(self.hidden, self.hidden, dtype=torch.float64, device=self.device)
        for x in batches:
            rows = x.reshape(-1, self.hidden).double()
            covariance += rows.T @ rows
        values, vectors = torch.linalg.eigh(covariance)
        self.kept.append((values[-self.width :].sum() / values.sum()).item())
        return vectors.flip(1).float()

    def forward(self, x, layer):
        """The layer in whatever bases its weights are in."""
        linear = lambda name, x: F.linear(x, layer[name][0], layer[name][1])
        split = lambda x: x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        n = self.norm(x)
        q, k, v = (split(linear(name, n)) for name in ("q", "k", "v"))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        middle = x @ layer["attn_shortcut"] + linear("out", attended)
        return middle, middle @ layer["mlp_shortcut"] + linear("fc2", F.relu(linear("fc1", self.norm(middle))))

    def cast(self, layer):
        return {name: tuple(t.to(self.dtype) for t in value) if isinstance(value, tuple) else value.to(self.dtype) for name, value in layer.items()}

    def slice(self, rows, batch):
        """Slices the model; returns its new tensors on the host."""
        d, sliced = self.width, {}
        embedding, positions = self.get("embed_tokens.weight"), self.get("embed_positions.weight")
        embedding, positions = embedding - embedding.mean(1, keepdim=True), positions - positions.mean(1, keepdim=True)
        ids = torch.tensor(rows, device=self.device)
        signals = [(embedding[part] + positions[2 : 2 + ids.shape[1]]).to(self.dtype) for part in ids.split(batch)]
        basis = self.axes(signals)
        sliced["embed_tokens"], sliced["embed_positions"] = (embedding @ basis[:, :d]).cpu(), (positions @ basis[:, :d]).cpu()
        for index in range(self.config["num_hidden_layers"]):
            at = f"layers.{index}."
            last = index + 1 == self.config["num_hidden_layers"]
            layer = {name: self.linear(f"{at}self_attn.{name}_proj", at + "self_attn_layer_norm") for name in ("q", "k", "v")}
            layer["out"] = self.linear(at + "self_attn.out_proj", writes=True)
            layer["fc1"] = self.linear(at + "fc1", at + "final_layer_norm")
            layer["fc2"] = self.linear(at + "fc2", writes=True)
            for name in ("q", "k", "v"):
                layer[name] = (layer[name][0] @ basis[:, :d], layer[name][1])
            layer["attn_shortcut"], layer["mlp_shortcut"] = basis[:, :d].T, torch.eye(self.hidden, device=self.device)
            inputs = [x @ basis[:, :d].to(self.dtype) for x in signals]
            ready = self.cast(layer)
            middle = self.axes([self.forward(x, ready)[0] for x in inputs])
            layer["out"] = (middle[:, :d].T @ layer["out"][0], layer["out"][1] @ middle[:, :d])
            layer["attn_shortcut"] = layer["attn_shortcut"] @ middle[:, :d]
            layer["fc1"] = (layer["fc1"][0] @ middle[:, :d], layer["fc1"][1])
            layer["mlp_shortcut"] = middle[:, :d].T
            ready = self.cast(layer)
            signals = [self.forward(x, ready)[1] for x in inputs]
            basis = self.axes(signals)
            kept = self.hidden if last else d
            layer["fc2"] = (basis[:, :kept].T @ layer["fc2"][0], layer["fc2"][1] @ basis[:, :kept])
            layer["mlp_shortcut"] = layer["mlp_shortcut"] @ basis[:, :kept]
            sliced[index] = {name: tuple(t.cpu() for t in value) if isinstance(value, tuple) else value.cpu() for name, value in layer.items()}
        embedding = self.get("embed_tokens.weight")
        sliced["head"] = ((embedding * self.get("final_layer_norm.weight")) @ basis).cpu()
        sliced["head_bias"] = (embedding @ self.get("final_layer_norm.bias")).cpu()
        synchronize(self.device)
        return sliced


def compare_slicing(options, device):
    work = Path(options.work)
    shutil.rmtree(work, ignore_errors=True)
    model, output, window = work / "model", work / "sliced", work / "window.json"
    command = [options.program, "synthesize", options.shape, "-o", model]
    command += ["--cal-nsamples", str(options.nsamples), "--cal-max-seqlen", str(options.seqlen)]
    subprocess.run(command + (["--layers", str(options.layers)] if options.layers else []), check=True)
    rows = json.loads((model / "tokens.json").read_text())["input_ids"]
    # Perplexity is not what is compared: the least that can be asked for.
    window.write_text(json.dumps({"input_ids": [rows[0][:8]]}))

    command = [options.program, "run", model, "-o", output, "--sparsity", str(options.sparsity), "--calibration", model / "tokens.json"]
    command += ["--eval", window, "--json"] + (["--device", options.device] if options.device else [])
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    result = {"adapter": report["adapter"]["name"], "width": report["sliced_width"], "ours": report["seconds"]["slice"]}
    for dtype in options.dtypes:
        synchronize(device)
        began = time.perf_counter()
        slicer = Slicer(model, options.sparsity, getattr(torch, dtype), device)
        with torch.no_grad():
            slicer.slice(rows, options.batch)
        result[dtype] = time.perf_counter() - began
        assert slicer.width == report["sliced_width"]
        pairs = zip(slicer.kept, report["kept_energy_per_site"], strict=True)
        result["kept_energy_difference_" + dtype] = max(abs(a - b) for a, b in pairs)
    if "float32" in options.dtypes and result["kept_energy_difference_float32"] > 1e-4:
        raise SystemExit(f"the two sides did not compute the same: kept energies differ by {result['kept_energy_difference_float32']:.1e}")
    shutil.rmtree(work)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/slicegpt-gpu")
    parser.add_argument("--device", help="the adapter, as `slicegpt-gpu devices` lists it [default: the best]")
    parser.add_argument("--only", choices=["products", "slicing"])
    parser.add_argument("--products", nargs="+", default=["gemm/f32/4096x4096x4096", "gemm/llama-2-7b/gate/prefill-512"], help="workloads of bench")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"], help="types that PyTorch computes in")
    parser.add_argument("--shape", default="opt-1.3b", choices=["opt-125m", "opt-1.3b"])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8, help="sequences that PyTorch runs at once")
    parser.add_argument("--sparsity", type=float, default=0.25)
    parser.add_argument("--work", default="target/compare", help="a directory for the models, emptied first and removed at the end")
    parser.add_argument("--json", help="a file to write all results to")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU ({platform.processor() or platform.machine()})"
    results = {"pytorch": torch.__version__, "pytorch_device": name, "arguments": {key: value for key, value in vars(options).items() if key not in ("program", "work", "json")}}
    print(f"PyTorch {torch.__version__} on {name}, TF32 off")

    if options.only != "slicing":
        products = results["products"] = compare_products(options, device)
        print(f"\nMatrix products in GFLOP/s; slicegpt-gpu on {products['adapter']}")
        for row in products["rows"]:
            peak = f" ({row['percent_of_peak']:.0f} % of the probe's peak)" if row["percent_of_peak"] is not None else ""
            others = "; ".join(f"PyTorch {dtype} {row[dtype]:.0f}, {row['ours'] / row[dtype]:.2f} times that" for dtype in options.dtypes)
            print(f"  {row['name']}: {row['ours']:.0f}{peak}; {others}")
    if options.only != "products":
        slicing = results["slicing"] = compare_slicing(options, device)
        print(f"\nSlicing {options.shape}, {options.nsamples} sequences of {options.seqlen} tokens, to width {slicing['width']}, in seconds")
        print(f"  slicegpt-gpu on {slicing['adapter']}, its files included: {slicing['ours']:.2f}")
        for dtype in options.dtypes:
            difference = slicing["kept_energy_difference_" + dtype]
            faster = slicing[dtype] / slicing["ours"]
            print(f"  PyTorch {dtype}: {slicing[dtype]:.2f}, {faster:.2f} times as long; kept energies differ by at most {difference:.1e}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
