# Written by slicegpt-gpu (MIT licence).
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

from .configuration_pruned_mixtral import PrunedMixtralConfig
from .modeling_pruned_common import PrunedForCausalLM, stored_as

stored_as("pruned_mixtral", "mixtral")


class PrunedMixtralForCausalLM(PrunedForCausalLM, MixtralForCausalLM):
    config_class = PrunedMixtralConfig
    layers = "model.layers"
