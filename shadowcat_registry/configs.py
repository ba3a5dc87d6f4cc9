"""From a provider and what its user adds to the config that its factory gets: merged, filled in, checked.

Knows no registry and opens nothing; runs the checks of the factory, so never under a lock.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from .backend import StorageProviderFactory
from .defaults import fill_defaults, merge
from .errors import InvalidConfigError
from .marks import format_dotted
from .metadata import Config
from .schema import make_paths_absolute, problems
from .snapshot import Provider


def complete_unchecked(provider: Provider, over: Config, base_directory: Path) -> Config:
    """The provider's config with `over` laid on it, defaults filled in, and paths made absolute."""
    schema = provider.factory.config_schema()
    config = fill_defaults(schema, merge(provider.spec.config, over))
    return make_paths_absolute(schema, config, base_directory)


def complete(provider: Provider, over: Config, base_directory: Path) -> Config:
    """Raises: InvalidConfigError."""
    config = complete_unchecked(provider, over, base_directory)
    check(provider.name, provider.factory, config)
    return config


def config_of(provider: Provider, base_directory: Path) -> Config:
    """What a storage of the provider is opened with: a copy, so that a factory may spoil it.

    Raises:
        InvalidConfigError: it was registered without one, and is refused now.
    """
    if provider.validated:
        return deepcopy(dict(provider.spec.config))
    return complete(provider, {}, base_directory)


def check(name: str, factory: StorageProviderFactory, config: Config) -> None:
    """Raises: InvalidConfigError."""
    wrong = [
        f"{format_dotted(problem.pointer) or 'config'}: {problem.message}"
        for problem in problems(factory.config_schema(), config)
    ]
    if wrong:
        raise InvalidConfigError(name, wrong)
    try:
        factory.validate_config(config)
    except ValueError as error:  # by its contract the text holds no value
        raise InvalidConfigError(name, [str(error)]) from error
