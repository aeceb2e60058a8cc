# Written by slicegpt-gpu (MIT licence).
from transformers.models.stablelm.modeling_stablelm import StableLmForCausalLM

from .configuration_pruned_stablelm import PrunedStableLmConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedStableLmForCausalLM(PrunedForCausalLM, StableLmForCausalLM):
    config_class = PrunedStableLmConfig
    layers = "model.layers"
