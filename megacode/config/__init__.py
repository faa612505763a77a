"""What a run is: frozen models, TOML with `key=value` overrides, and every mistake found at once, without torch."""

from megacode.config.load import load_config
from megacode.config.problem import Problem, render_problems
from megacode.config.schema import RunConfig
from megacode.config.tables import ConfigError

__all__ = ["ConfigError", "Problem", "RunConfig", "load_config", "render_problems"]
