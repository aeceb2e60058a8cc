# Written by slicegpt-gpu (MIT licence).
from transformers.models.mpt.modeling_mpt import MptForCausalLM

from .configuration_pruned_mpt import PrunedMptConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedMptForCausalLM(PrunedForCausalLM, MptForCausalLM):
    config_class = PrunedMptConfig
    layers = "transformer.blocks"
