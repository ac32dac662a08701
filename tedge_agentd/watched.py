"""Which paths a change of which asks for a pass."""

from collections.abc import Iterator

from .observe import Inputs
from .world import World


def paths(world: World, inputs: Inputs) -> frozenset[str]:
    """Every file and directory that the last pass depended on, there or not: what is missing may come."""
    return frozenset(_paths(world, inputs))


def _paths(world: World, inputs: Inputs) -> Iterator[str]:
    options = world.settings
    yield from (world.settings_path, options.tedge_toml, options.system_toml, options.broker_config)
    yield options.staging_dir
    yield from (f"{options.tedge_dir}/mappers", *inputs.mapper_files)
    if inputs.conf is not None:
        yield from (directory.real for directory in inputs.conf.include_dirs)
    if inputs.wish is None:
        return
    yield from (rule.path for rule in inputs.wish.rules)
