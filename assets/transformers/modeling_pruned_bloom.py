# Written by slicegpt-gpu (MIT licence).
from transformers.models.bloom.modeling_bloom import BloomForCausalLM

from .configuration_pruned_bloom import PrunedBloomConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedBloomForCausalLM(PrunedForCausalLM, BloomForCausalLM):
    config_class = PrunedBloomConfig
    layers = "transformer.h"
