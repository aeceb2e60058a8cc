# Written by slicegpt-gpu (MIT licence).
from transformers.models.starcoder2.modeling_starcoder2 import Starcoder2ForCausalLM

from .configuration_pruned_starcoder2 import PrunedStarcoder2Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedStarcoder2ForCausalLM(PrunedForCausalLM, Starcoder2ForCausalLM):
    config_class = PrunedStarcoder2Config
    layers = "model.layers"
