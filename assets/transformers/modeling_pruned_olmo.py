# Written by slicegpt-gpu (MIT licence).
from transformers.models.olmo.modeling_olmo import OlmoForCausalLM

from .configuration_pruned_olmo import PrunedOlmoConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedOlmoForCausalLM(PrunedForCausalLM, OlmoForCausalLM):
    config_class = PrunedOlmoConfig
    layers = "model.layers"
