# Written by slicegpt-gpu (MIT licence).
from transformers.models.olmo2.modeling_olmo2 import Olmo2ForCausalLM

from .configuration_pruned_olmo2 import PrunedOlmo2Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedOlmo2ForCausalLM(PrunedForCausalLM, Olmo2ForCausalLM):
    config_class = PrunedOlmo2Config
    layers = "model.layers"
