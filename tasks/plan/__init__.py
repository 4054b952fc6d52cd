"""What a run would handle, take and need, told from its config and earlier artifacts alone."""

from tasks.plan.cost import Cost, costs
from tasks.plan.recipe import recipe_plan
from tasks.plan.rows import Expected, Rows

__all__ = ["Cost", "Expected", "Rows", "costs", "recipe_plan"]
