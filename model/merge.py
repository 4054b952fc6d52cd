"""An adapter worked into the weights: a base that needs no adapter, and answers as with it."""

from peft.tuners.lora import LoraLayer

from model.backbone import Backbone


def merge_lora(backbone: Backbone) -> int:
    """Adds B A (alpha / r) to every adapted weight and takes the adapter out; counts the layers."""
    adapted = [
        (name, module)
        for name, module in backbone.vlm.named_modules()
        if isinstance(module, LoraLayer)
    ]
    for name, module in adapted:
        module.merge()
        backbone.vlm.set_submodule(name, module.get_base_layer())
    if adapted:
        del backbone.vlm.peft_config
    return len(adapted)
