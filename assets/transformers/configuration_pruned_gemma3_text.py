# Written by slicegpt-gpu (MIT licence).
from transformers import Gemma3TextConfig


class PrunedGemma3TextConfig(Gemma3TextConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_gemma3_text"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
