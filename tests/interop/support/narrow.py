"""Sliced checkpoints as other ways of slicing make them: another width at every point, the head's too, and layers without shortcuts."""

import json
import re
import shutil

import torch
from safetensors.torch import load_file, save_file


class Narrowing:
    """Cuts a sliced checkpoint further, in two forms that compute the same.

    `attention`, a list for layers that differ in it, and `mlp` are the tables of the modeling file: norm, readers, writer. Where both sides of a block are equally
    wide, the form `without` has no shortcut, and the form `explicit` has the identity.
    """

    def __init__(self, source, attention, mlp):
        self.source, self.attention, self.mlp = source, attention, mlp
        self.config = json.loads((source / "config.json").read_text())
        self.tensors = load_file(source / "model.safetensors")
        names = [re.match(r"(.*\.)\d+\.attn_shortcut_Q$", name) for name in self.tensors]
        self.prefix = next(match.group(1) for match in names if match)
        self.parallel = f"{self.prefix}0.mlp_shortcut_Q" not in self.tensors
        self.transposed = self.config["model_type"] == "sliced_gpt2"

    def cut(self, name, rows=None, cols=None):
        tensor = self.tensors[name]
        if self.transposed and tensor.dim() == 2 and name.startswith(self.prefix) and not name.endswith("_Q"):
            rows, cols = cols, rows
        self.tensors[name] = (tensor[:rows] if tensor.dim() == 1 else tensor[:rows, :cols]).contiguous()

    def block(self, layer, table, reads, writes):
        _, readers, writer = table
        for reader in readers:
            self.cut(f"{self.prefix}{layer}.{reader}.weight", cols=reads)
        self.cut(f"{self.prefix}{layer}.{writer}.weight", rows=writes)
        if (bias := f"{self.prefix}{layer}.{writer}.bias") in self.tensors:
            self.cut(bias, rows=writes)

    def write(self, without, explicit):
        """Writes both forms; returns how many shortcuts the first one lacks."""
        layers = self.config["slicing"]["layers"]
        first = layers[0]["attention_input"] - 1
        last = first - 2
        for name in self.tensors:
            if not name.startswith(self.prefix) and name.endswith(".weight"):
                is_head = name in ("lm_head.weight", "embed_out.weight")
                self.cut(name, cols=last if is_head else first)
        missing = []
        width = first
        for index, widths in enumerate(layers):
            # Layer 0 keeps its width past the attention, layer 1 past the MLP, others change it at every point.
            middle = width if index == 0 else width - 1
            output = last if index + 1 == len(layers) else (middle if index == 1 else middle - 1)
            if self.parallel:
                middle = output = last if index + 1 == len(layers) else width
            widths.update(attention_input=width, mlp_input=middle, output=output)
            points = [("attn_shortcut", width, output if self.parallel else middle), ("mlp_shortcut", middle, output)]
            for name, inputs, outputs in points[:1] if self.parallel else points:
                self.cut(f"{self.prefix}{index}.{name}_Q", inputs, outputs)
                if inputs == outputs:
                    missing.append((index, name, inputs))
            attention = next(table for table in self.attention if f"{self.prefix}{index}.{table[2]}.weight" in self.tensors)
            self.block(index, attention, width, points[0][2])
            self.block(index, self.mlp, width if self.parallel else middle, output)
            width = output
        for directory in (without, explicit):
            shutil.copytree(self.source, directory, dirs_exist_ok=True)
        for index, name, width in missing:
            self.tensors[f"{self.prefix}{index}.{name}_Q"] = torch.eye(width)
        self.save(explicit)
        for index, name, _ in missing:
            del self.tensors[f"{self.prefix}{index}.{name}_Q"]
            layers[index][name] = False
        self.save(without)
        return len(missing)

    def save(self, directory):
        (directory / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, directory / "model.safetensors", metadata={"format": "pt"})
