# Written by slicegpt-gpu (MIT licence).
from transformers.models.phi.modeling_phi import PhiForCausalLM

from .configuration_pruned_phi import PrunedPhiConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedPhiForCausalLM(PrunedForCausalLM, PhiForCausalLM):
    config_class = PrunedPhiConfig
    layers = "model.layers"
