"""The model card: what a model is, what it scored, and under which licences."""

from tasks.card.write import Scored, write_card

__all__ = ["Scored", "write_card"]
