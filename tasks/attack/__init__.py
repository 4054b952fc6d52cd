"""Attacks on a trained model: pixels, words on the image, other wordings of the question."""

from tasks.attack.step import AttackInputs, attack, attack_inputs, read_attack

__all__ = ["AttackInputs", "attack", "attack_inputs", "read_attack"]
