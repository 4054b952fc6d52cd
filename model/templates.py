"""The text around questions and answers that a base was trained with.

A prompt in another base's words still gets an answer, and a worse one: each family names its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """The fixed parts of a conversation, in their order; the end-of-sequence token ends an answer.

    Args:
        user: before a user's turn.
        asked: after it; the answer follows.
        image: the image's place at the head of the first turn; {image} is the placeholder.
        system: before all turns.
        answer: before the words of an answer, and taught with it.
        told: after an answer's end-of-sequence token.
    """

    user: str
    asked: str
    image: str = "{image}\n"
    system: str = ""
    answer: str = " "
    told: str = ""


LLAVA = Template(user="USER: ", asked=" ASSISTANT:")
VICUNA = Template(
    user="USER: ",
    asked=" ASSISTANT:",
    system=(
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions. "
    ),
)
MISTRAL = Template(user="[INST] ", asked=" [/INST]")
HERMES = Template(
    user="<|im_start|>user\n",
    asked="<|im_end|><|im_start|>assistant\n",
    system="<|im_start|>system\nAnswer the questions.<|im_end|>",
    answer="",
)
# LLaVA-NeXT's words in Llama-3's own headers; the tokenizer's eos is then <|eot_id|>.
LLAMA_3 = Template(
    user="<|start_header_id|>user<|end_header_id|>\n\n",
    asked="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    system=(
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and "
        "assist the user with a variety of tasks using natural language.<|eot_id|>"
    ),
    answer="",
)
QWEN = Template(
    user="<|im_start|>user\n",
    asked="<|im_end|>\n<|im_start|>assistant\n",
    image="<|vision_start|>{image}<|vision_end|>",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    answer="",
    told="\n",
)
