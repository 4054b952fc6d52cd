"""The letter that a free answer to a multiple-choice question means, as MMBench's tool finds it."""

import re
from collections.abc import Mapping

MARKS = str.maketrans({mark: " " for mark in ".()[],:;!*#{}"})
NONE = "Z"  # the tool's word for "no option"
# What models of its time said of images that they would not look at: no option, whatever follows.
NO_ANSWER = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.",
    "I'm sorry, but without the image provided", "Cannot determine the answer",
)  # fmt: skip
LAST = 5
STATED = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


def letter_of(answer: str, options: Mapping[str, str]) -> str:
    """A letter of `options`, Z for "none of them", or "" where the rule finds nothing.

    First a letter that stands alone among the last words, then "the answer is X", then the one
    option whose text is in the answer.
    """
    if any(text in answer for text in NO_ANSWER):
        return NONE
    words = answer.translate(MARKS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - LAST:
        return named[0]
    if not named and NONE in words:
        return NONE
    stated = STATED.search(answer)
    if stated and stated[1].upper() in options:
        return stated[1].upper()
    return _by_text(answer.lower(), options)


def _by_text(answer: str, options: Mapping[str, str]) -> str:
    """The one option whose text is in an answer that is not much longer than all of them."""
    texts = {letter: text.lower() for letter, text in options.items()}
    if len(answer) > 2 * sum(map(len, texts.values())):
        return ""
    found = [letter for letter, text in texts.items() if text in answer]
    return found[0] if len(found) == 1 else ""
