# Written by slicegpt-gpu (MIT licence).
from transformers import StableLmConfig


class PrunedStableLmConfig(StableLmConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_stablelm"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
