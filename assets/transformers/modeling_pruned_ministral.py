# Written by slicegpt-gpu (MIT licence).
from transformers.models.ministral.modeling_ministral import MinistralForCausalLM

from .configuration_pruned_ministral import PrunedMinistralConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedMinistralForCausalLM(PrunedForCausalLM, MinistralForCausalLM):
    config_class = PrunedMinistralConfig
    layers = "model.layers"
