"""Two models' answers side by side for people, blinded; and what they have said of them."""

from tasks.review.export import ReviewConfig, export_review
from tasks.review.votes import reviewed

__all__ = ["ReviewConfig", "export_review", "reviewed"]
