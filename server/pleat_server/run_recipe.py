"""The recipe of a run: read by name with what the run lays over it, checked, and kept in the run's folder."""

from __future__ import annotations

from typing import Any

import msgspec

from pleat.disk import write_atomic
from pleat.errors import UseError
from pleat.nets.build import check_exits, resolve
from pleat.recipes import load as recipes
from pleat.recipes.recipe import Recipe
from pleat_server.config import RunConfig
from pleat_server.plan.policies import policy_of

RECIPE = "recipe.json"


def read_recipe(config: RunConfig) -> Recipe:
    """The recipe as this run uses it: what its folder keeps, so that a run ends by the numbers it began with; before
    that the named one, as it applies to the net, with the run's own settings on top. Raises UseError."""
    kept = config.folder / RECIPE
    if not kept.is_file():
        return recipes.load(config.recipe, model=config.model, overrides=laid_over(config))
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Recipe)
    except msgspec.DecodeError as error:
        raise UseError(
            f"{kept}: not a run's recipe: {error}; remove it to go on by {config.recipe!r} as it is now"
        ) from None


def checked(config: RunConfig) -> Recipe:
    """The recipe of a run whose names are all known, net and policy included: asked before anything is written or
    listened on. Raises UseError with the nearest name."""
    recipe = read_recipe(config)
    resolve(config.model)
    check_exits(config.model, recipe.holds.exits)
    policy_of(recipe.plan.policy, recipe.plan.settings)
    return recipe


def laid_over(config: RunConfig) -> dict[str, Any]:
    """All that the run lays over its recipe, its policy and number of devices included."""
    overrides = {k: dict(v) if isinstance(v, dict) else v for k, v in config.overrides.items()}
    if config.policy:
        overrides["plan"] = {**overrides.get("plan", {}), "policy": config.policy}
    if config.least:
        overrides["server"] = {**overrides.get("server", {}), "least": config.least}
    return overrides


def keep_recipe(config: RunConfig, recipe: Recipe) -> None:
    """Write the recipe into the run's folder."""
    write_atomic(config.folder / RECIPE, msgspec.json.format(msgspec.json.encode(recipe), indent=2))
