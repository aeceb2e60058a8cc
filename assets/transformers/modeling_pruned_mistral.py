# Written by slicegpt-gpu (MIT licence).
from transformers.models.mistral.modeling_mistral import MistralForCausalLM

from .configuration_pruned_mistral import PrunedMistralConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedMistralForCausalLM(PrunedForCausalLM, MistralForCausalLM):
    config_class = PrunedMistralConfig
    layers = "model.layers"
