# Written by slicegpt-gpu (MIT licence).
from transformers import MptConfig


class PrunedMptConfig(MptConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_mpt"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
