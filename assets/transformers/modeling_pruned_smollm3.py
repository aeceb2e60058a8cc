# Written by slicegpt-gpu (MIT licence).
from transformers.models.smollm3.modeling_smollm3 import SmolLM3ForCausalLM

from .configuration_pruned_smollm3 import PrunedSmolLM3Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedSmolLM3ForCausalLM(PrunedForCausalLM, SmolLM3ForCausalLM):
    config_class = PrunedSmolLM3Config
    layers = "model.layers"
