"""Seeds of a recipe's own: masks that nothing draws, and names that expanding would make twice."""

from collections.abc import Iterator

from slimdiff.config.axes import variants
from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config, has_random_steps

MAX_NAME = 100  # characters, as in the schema


def axis_problems(config: Config) -> Iterator[Problem]:
    """Yield recipes whose mask_seed changes nothing, and expanded names that are too long or taken."""
    recipes = config["optimizations"]
    for name, recipe in recipes.items():
        path = ("optimizations", name)
        if "mask_seed" in recipe and not has_random_steps(config, name):
            text = "seeds random pruning and plugin steps, and this recipe has neither; leave it out"
            yield Problem((*path, "mask_seed"), text)
        for own in variants(name, recipe):
            if own != name and (own in recipes or len(own) > MAX_NAME):
                why = "another recipe" if own in recipes else f"longer than {MAX_NAME} characters"
                yield Problem(path, f"expands to {own}, which is {why}; rename the recipe")
