# Written by slicegpt-gpu (MIT licence).
from transformers import Olmo2Config


class PrunedOlmo2Config(Olmo2Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_olmo2"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
