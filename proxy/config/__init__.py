"""YAML in, frozen settings and ``router.cluster`` values out.

``form`` says which keys there are, ``reader`` reads a file by it, ``loading`` sees what goes together, ``settings`` is
what the others get.
"""

from proxy.config.form import FORM, Either, Form, Key, Named, Section, Value, known_keys
from proxy.config.loading import load, load_tables, plain_tables
from proxy.config.reader import ConfigError, Mistake, dump
from proxy.config.settings import (
    CONSOLE_DATABASE,
    DEFAULT_PORT,
    SHARD_LOGINS,
    Address,
    Auth,
    Config,
    Console,
    DatabaseConfig,
    Log,
    Tables,
    Tls,
    TracingTo,
)

__all__ = [
    "CONSOLE_DATABASE",
    "DEFAULT_PORT",
    "FORM",
    "SHARD_LOGINS",
    "Address",
    "Auth",
    "Config",
    "ConfigError",
    "Console",
    "DatabaseConfig",
    "Either",
    "Form",
    "Key",
    "Log",
    "Mistake",
    "Named",
    "Section",
    "Tables",
    "Tls",
    "TracingTo",
    "Value",
    "dump",
    "known_keys",
    "load",
    "load_tables",
    "plain_tables",
]
