# Written by slicegpt-gpu (MIT licence).
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM

from .configuration_pruned_phi3 import PrunedPhi3Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedPhi3ForCausalLM(PrunedForCausalLM, Phi3ForCausalLM):
    config_class = PrunedPhi3Config
    layers = "model.layers"
