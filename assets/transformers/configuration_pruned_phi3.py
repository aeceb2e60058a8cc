# Written by slicegpt-gpu (MIT licence).
from transformers import Phi3Config


class PrunedPhi3Config(Phi3Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_phi3"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
