# Written by slicegpt-gpu (MIT licence).
from transformers.models.granite.modeling_granite import GraniteForCausalLM

from .configuration_pruned_granite import PrunedGraniteConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGraniteForCausalLM(PrunedForCausalLM, GraniteForCausalLM):
    config_class = PrunedGraniteConfig
    layers = "model.layers"
