# Written by slicegpt-gpu (MIT licence).
from transformers import Gemma2Config


class PrunedGemma2Config(Gemma2Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_gemma2"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
