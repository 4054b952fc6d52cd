"""Attacks on a trained model: pixels, words on the image, other wordings of the question."""

from tasks.attack.step import AttackInputs, attack, read_attack

__all__ = ["AttackInputs", "attack", "read_attack"]
