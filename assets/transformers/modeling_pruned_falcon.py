# Written by slicegpt-gpu (MIT licence).
from transformers.models.falcon.modeling_falcon import FalconForCausalLM

from .configuration_pruned_falcon import PrunedFalconConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedFalconForCausalLM(PrunedForCausalLM, FalconForCausalLM):
    config_class = PrunedFalconConfig
    layers = "transformer.h"
