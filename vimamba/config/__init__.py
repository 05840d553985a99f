"""Configurations: files read as data, and the schema that they are checked against."""

from .reading import Table, apply_option, read_config
from .schema import Config, describe, load_config

__all__ = ['Config', 'Table', 'apply_option', 'describe', 'load_config', 'read_config']
