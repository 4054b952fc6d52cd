"""The method, in plain PyTorch around transformers' vision-language models.

To read it in one sitting, in this order:

- `heads.py`, `projectors.py`, `safety.py`: the concept bottleneck, from features to logits;
- `psavlm.py`: it and the base as one model; `prompts.py`, `batches.py`: what a base is given;
- `losses.py`, `stages.py`: what is learned, and which weights of it when;
- `policy.py`, `calibration.py`, `guard.py`: from logits to an action, and an answer in two passes;
- `backbone.py`, `backbones/`: what a base must tell, one file per family;
- `checkpoint.py`, `training_state.py`: what lies on disk.

The rest explains, measures or attacks a model (`attention.py`, `contributions.py`, `probe.py`,
`attacks.py`), or makes the tiny base of the tests (`pretrain.py`, `tiny_llava.py`).
"""
