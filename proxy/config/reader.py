"""YAML in, nested dicts with every default filled in. The only reader and writer of YAML.

A mistake names file, line, key path, what is wrong and what would be right; all mistakes of a file are reported
together. Unknown and repeated keys are mistakes. Secrets may stand elsewhere: ``env:NAME`` or ``file:PATH`` (relative
to the file). No message shows a secret. Leaves to others what the keys are (``form``).
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Final

import yaml

from proxy.config.form import Either, Form, Named, Section
from proxy.config_values import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


_READABLE: Final = "give file:PATH of a readable file"
_MOST_BYTES: Final = 1 << 16  # of a secret; Postgres itself takes no longer password
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a file. ``line`` counts from 1; ``path`` is the key's, with dots."""

    file: str
    line: int
    path: str
    wrong: str
    right: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: {self.path}: " if self.path else f"{self.file}:{self.line}: "
        return f"{where}{self.wrong}; {self.right}" if self.right else f"{where}{self.wrong}"


class ConfigError(Exception):
    """A file cannot be used. ``mistakes`` are all that were found, in the order of their lines."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line))
        super().__init__("\n".join(map(str, self.mistakes)))


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "mapping"
    return "list" if isinstance(node, yaml.SequenceNode) else "single value"


def _whole(text: str) -> str:
    """Return a text with pairs of surrogates as what they stand for: so JSON writes what is not ASCII."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise Wrong("is not UTF-8", "write it in UTF-8") from error


def _content(where: Path) -> str:
    """Return what a file with a secret says. Never waits, as for a pipe, and reads no more than a secret may have."""
    if "\0" in str(where):
        raise Wrong("the name of the file has a NUL in it", _READABLE)
    try:
        with os.fdopen(os.open(where, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Wrong(f"{where} is no ordinary file", _READABLE)
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise Wrong(f"the file {where} has more than {_MOST_BYTES} bytes", _READABLE)
        return content.decode().replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise Wrong(f"the file {where} cannot be read: {reason}", _READABLE) from error


class Reader:
    """Reads one file by a form; mistakes are collected, and what is wrong is None in the result."""

    def __init__(self, file: Path, environment: Mapping[str, str]) -> None:
        self.file = file
        self.environment = environment
        self.mistakes: list[Mistake] = []
        self._lines: dict[str, int] = {}

    def load(self, form: Section) -> dict[str, Any]:
        """Return the file's content as nested dicts with every default filled in; raises ConfigError."""
        try:
            root = yaml.compose(self.file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Mistake(str(self.file), 1, "", f"cannot be read: {error}", "")]) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "is not YAML"
            line = mark.line + 1 if mark is not None else 1
            raise ConfigError([Mistake(str(self.file), line, "", problem, "the file must be valid YAML")]) from error
        if root is None:
            root = yaml.MappingNode("tag:yaml.org,2002:map", [], None, None)
        content = self._section(root, form, "")
        if content is None:
            raise ConfigError(self.mistakes)
        return content

    def wrong(self, path: str, wrong: str, right: str) -> None:
        """Note a mistake at a path that was read before (or, if it was left out, at the nearest key above it)."""
        at = path
        while at and at not in self._lines:
            at = at.rpartition(".")[0]
        self.mistakes.append(Mistake(str(self.file), self._lines.get(at, 1), path, wrong, right))

    def check(self) -> None:
        """Raise ConfigError if there was any mistake."""
        if self.mistakes:
            raise ConfigError(self.mistakes)

    def _read(self, node: yaml.Node, form: Form, path: str) -> Any:
        if isinstance(form, Either):
            return self._read(node, form.scalar if isinstance(node, yaml.ScalarNode) else form.section, path)
        if isinstance(form, Section):
            return self._section(node, form, path)
        if isinstance(form, Named):
            return self._named(node, form, path)
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(path, f"is a {_kind(node)}", "give one value")
            return None
        try:
            return form.read(_whole(self._secret(node) if form.secret else node.value))
        except Wrong as error:
            self.wrong(path, error.wrong, error.right)
            return None

    def _secret(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if node.tag == _NULL:
            raise Wrong("is null", "give a value, in quotes if it is this word")
        if text.startswith("env:"):
            name = text.removeprefix("env:")
            if name not in self.environment:
                raise Wrong(f"the environment variable {name} is not set", f"set {name} before the start")
            return self.environment[name]
        if text.startswith("file:"):
            return _content(self.file.parent / text.removeprefix("file:"))
        return text

    def _items(self, node: yaml.Node, path: str) -> Iterator[tuple[str, str, yaml.Node]]:
        """Yield text, path and value node of each key, repeated ones but once."""
        if not isinstance(node, yaml.MappingNode):
            empty = isinstance(node, yaml.ScalarNode) and not node.value
            self.wrong(path, "is empty" if empty else f"is a {_kind(node)}", "give key: value pairs")
            return
        seen: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._lines[path] = line
                self.wrong(path, "has a key that is no plain text", "write name: value")
                continue
            where = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen:
                self._lines[where] = line
                self.wrong(where, f"is there twice (first in line {seen[key.value]})", "keep one")
                continue
            seen[key.value] = self._lines[where] = line
            yield str(key.value), where, item

    def _section(self, node: yaml.Node, form: Section, path: str) -> dict[str, Any] | None:
        before = len(self.mistakes)
        found: dict[str, Any] = {}
        for name, where, item in self._items(node, path):
            key = form.keys.get(name)
            if key is None:
                near = difflib.get_close_matches(name, form.keys, n=1)
                right = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(form.keys)}"
                self.wrong(where, "is not a known key", right)
            elif key.default is None and isinstance(item, yaml.ScalarNode) and item.value in ("", "~", "null"):
                found[name] = None
            else:
                found[name] = self._read(item, key.form, where)
        if not isinstance(node, yaml.MappingNode):
            return None
        for name, key in form.keys.items():
            if name not in found:
                if key.default is ...:
                    where = f"{path}.{name}" if path else name
                    if not any(mistake.path == where for mistake in self.mistakes[before:]):
                        self.wrong(where, "is missing", "it has no default: conf/reference.yaml says what it means")
                found[name] = None if key.default is ... else key.default
        return found

    def _named(self, node: yaml.Node, form: Named, path: str) -> dict[Any, Any] | None:
        found: dict[Any, Any] = {}
        for text, where, item in self._items(node, path):
            value = self._read(item, form.form, where)
            try:
                name = form.name(_whole(text))
            except Wrong as error:
                self.wrong(where, error.wrong, error.right)
                continue
            if name in found:
                self.wrong(where, f"names {name} a second time", "keep one")
            found[name] = value
        if isinstance(node, yaml.MappingNode) and len(found) < form.least and not node.value:
            self.wrong(path, "is empty", f"name at least {form.least}")
        return found


def dump(content: Mapping[str, Any]) -> str:
    """Return YAML for plain content (dicts, lists, text, numbers), in the order given."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)
