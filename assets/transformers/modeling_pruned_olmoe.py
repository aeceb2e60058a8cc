# Written by slicegpt-gpu (MIT licence).
from transformers.models.olmoe.modeling_olmoe import OlmoeForCausalLM

from .configuration_pruned_olmoe import PrunedOlmoeConfig
from .modeling_pruned_common import PrunedForCausalLM, stored_as

stored_as("pruned_olmoe", "olmoe")


class PrunedOlmoeForCausalLM(PrunedForCausalLM, OlmoeForCausalLM):
    config_class = PrunedOlmoeConfig
    layers = "model.layers"
