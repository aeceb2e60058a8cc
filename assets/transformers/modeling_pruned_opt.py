# Written by slicegpt-gpu (MIT licence).
from transformers.models.opt.modeling_opt import OPTForCausalLM

from .configuration_pruned_opt import PrunedOPTConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedOPTForCausalLM(PrunedForCausalLM, OPTForCausalLM):
    config_class = PrunedOPTConfig
    layers = "model.decoder.layers"
