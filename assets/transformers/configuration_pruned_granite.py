# Written by slicegpt-gpu (MIT licence).
from transformers import GraniteConfig


class PrunedGraniteConfig(GraniteConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_granite"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
