"""A frozen base in four bits (NF4 with double quantisation, QLoRA: Dettmers et al. 2023).

Only the linear layers of the language model: encoder, projector, tables and output head stay as
they are, so that features, projections and the safety head's questions are those of the base. The
package is an extra, for it is needed on a card of 24 GB alone.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError

if TYPE_CHECKING:
    import torch

PACKAGE = "bitsandbytes"
# A regular expression for all modules that are left: transformers knows no list of those to take.
LEFT = r"(?!.*language_model\.).*"


def quantiser() -> dict[str, str]:
    """The package that quantises, and its version: it is part of what decides a model's bits.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return {PACKAGE: version(PACKAGE)}
    except PackageNotFoundError as error:
        raise ConfigError(
            f"quantise '4bit' needs {PACKAGE}, which is not installed: wherever this stage trains "
            "type pip install -c constraints.txt '.[4bit]' in the checkout, or set quantise = "
            '"none"'
        ) from error


def four_bit(device: "torch.device", dtype: "torch.dtype") -> dict[str, Any]:
    """What from_pretrained is told, to lay the language model's layers on a device in NF4.

    Args:
        device: the weights' own; they are quantised there, layer by layer.
        dtype: of products.

    Raises:
        ConfigError: the package is not installed.
    """
    quantiser()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[LEFT],
    )
    return {"quantization_config": config, "device_map": {"": device}}
