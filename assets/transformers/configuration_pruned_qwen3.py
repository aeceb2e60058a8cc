# Written by slicegpt-gpu (MIT licence).
from transformers import Qwen3Config


class PrunedQwen3Config(Qwen3Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_qwen3"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
