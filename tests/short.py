"""A preset of few steps, for tests of what surrounds the training."""

SHORT = """
extends = "tiny"
[stage1.parts.concept]
steps = 6
[stage1.parts.tokens]
steps = 4
[stage2.parts.lora]
steps = 4
[evaluate]
max_new_tokens = 6
bootstrap = 50
"""
