"""Which class reads which `model_type`: ours, and those of installed packages.

A package adds an architecture by an entry point of the group `psavlm.backbones`, whose name is the
`model_type` of config.json and whose value is a subclass of `model.backbone.Backbone`.
"""

from importlib.metadata import EntryPoint, entry_points

from model.backbone import Backbone
from schemas.errors import ConfigError

GROUP = "psavlm.backbones"
OURS = (
    EntryPoint("llava", "model.backbones.llava:Llava", GROUP),
    EntryPoint("llava_next", "model.backbones.llava_next:LlavaNext", GROUP),
    EntryPoint("qwen2_5_vl", "model.backbones.qwen2_5_vl:Qwen25Vl", GROUP),
)


def family_of(model_type: str) -> type[Backbone]:
    """The class for a `model_type`.

    Raises:
        ConfigError: none, or two of them; an entry point that is no such class.
    """
    known = (*OURS, *entry_points(group=GROUP))
    found = {point.value: point for point in known if point.name == model_type}
    if len(found) != 1:
        names = ", ".join(sorted({point.name for point in known}))
        many = f"; it is claimed by {', '.join(sorted(found))}" if found else ""
        raise ConfigError(
            f"model_type {model_type!r} needs one backbone class and has {len(found)}{many}: give "
            f"a base of one of {names}, or install a package with an entry point in {GROUP!r}"
        )
    (point,) = found.values()
    try:
        family = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"entry point {point.name} = {point.value} of {GROUP!r} cannot be loaded: {error}; "
            "repair or remove the package that brings it"
        ) from error
    if not (isinstance(family, type) and issubclass(family, Backbone)):
        raise ConfigError(
            f"entry point {point.name} = {point.value} of {GROUP!r} is no subclass of "
            "model.backbone.Backbone: repair or remove the package that brings it"
        )
    return family
