"""Configuration files read as data: a stranger's file cannot run anything.

A ``.py`` file is parsed with `ast` and never executed. It may hold

    assignments            lr = 1e-3                       the names become keys; ``_name`` is a helper, not a key
    literals               None True 1 2.5 'text' [..] (..) {'key': ..}
    calls                  dict(key=..), list(..), tuple(..)
    earlier names          optim = dict(lr=_lr)
    arithmetic             64 * 8 / 512 on numbers, 'a' + 'b' on text
    inheritance            _base_ = 'other.py' or a list, relative to the file; dictionaries merge key by key,
                           and ``_delete_=True`` in one replaces instead of merging

and anything else is refused with ``file:line``. ``.json`` and ``.yaml`` files hold the same things.
"""

import ast
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from vimamba.errors import UsageError

__all__ = ['Table', 'apply_option', 'read_config']

_MAX_BYTES = 1 << 17
_MAX_VALUES = 10_000  # of one name, counted with repetition: a few lines of names can describe billions
_MAX_NUMBER = 1e300
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Table(dict):
    """A dictionary that remembers where each key was written, ``file:line``.

    >>> Table({'lr': 0.1}, {'lr': 'a.py:3'}).where['lr']
    'a.py:3'
    """

    def __init__(self, items: Mapping[str, Any] | None = None, where: Mapping[str, str] | None = None) -> None:
        super().__init__(items or {})
        self.where = dict(where or {})

    def put(self, key: str, value: Any, where: str) -> None:
        self[key] = value
        self.where[key] = where

    def find(self, path: str) -> str:
        """``file:line`` of a dotted key, or of the last part of it that was written; '' if none was."""
        name, _, rest = path.partition('.')
        inside = self[name].find(rest) if isinstance(self.get(name), Table) else ''
        return inside or self.where.get(name, '')

    @contextmanager
    def located(self) -> Iterator[None]:
        """Adds ``file:line`` to a UsageError raised inside whose key is in the table."""
        try:
            yield
        except UsageError as error:
            error.where = error.where or self.find(error.key)
            raise


def read_config(path: str | Path, options: Iterable[str] = ()) -> Table:
    """Reads a configuration file with what it inherits, then applies ``a.b=value`` options.

    Raises:
        UsageError: no such file, or something in it is not data; the message has ``file:line``.
    """
    table = _read(Path(path), ())
    for option in options:
        apply_option(table, option)
    return table


def apply_option(table: Table, option: str) -> None:
    """Applies one ``--cfg-options`` argument in place, creating missing tables on the way.

    The value is read as a Python literal, else it is text. A number in the path is an index into a list.

    >>> config = Table({'data': Table({'mean': [0.1, 0.2]})})
    >>> apply_option(config, 'data.mean.1=0.5')
    >>> apply_option(config, 'run.work_dir=runs/a')
    >>> config
    {'data': {'mean': [0.1, 0.5]}, 'run': {'work_dir': 'runs/a'}}
    """
    path, equals, text = option.partition('=')
    keys = path.strip().split('.')
    where = f'--cfg-options {path.strip()}'
    if not equals or not all(keys):
        raise UsageError(f'--cfg-options {option!r}: expected key.subkey=value')
    value = _option_value(text.strip(), where)
    here: Any = table
    key: Any
    for depth, key in enumerate(keys):
        if not isinstance(here, Table):
            if not key.isdecimal() or int(key) >= len(here):
                raise UsageError(f'{where}: {".".join(keys[:depth])} is a list of {len(here)}, {key!r} is not in it')
            key = int(key)
        child = value
        if depth < len(keys) - 1:
            child = here.get(key, Table()) if isinstance(here, Table) else here[key]
            if not isinstance(child, Table | list | tuple):
                raise UsageError(f'{where}: {".".join(keys[: depth + 1])} is {child!r}, which has no keys')
            child = Table(child, child.where) if isinstance(child, Table) else list(child)  # others may hold it, too
        here[key] = child
        if isinstance(here, Table) and (child is value or key not in here.where):
            here.where[key] = where
        here = child


def _option_value(text: str, where: str) -> Any:
    words = {'true': True, 'false': False, 'none': None, 'null': None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        node = ast.parse(text, mode='eval').body
        ast.literal_eval(node)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        if text[:1] in ('[', '(', '{'):
            raise UsageError(f'{where}: {text!r} is not a literal; text inside it needs quotes') from None
        return text
    if isinstance(node, ast.Set) or (isinstance(node, ast.Constant) and isinstance(node.value, bytes | complex)):
        raise UsageError(f'{where}: {text!r} is not data for a configuration')
    return _Reader(where, {}).value(node)


def _read(path: Path, parents: tuple[Path, ...]) -> Table:
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise UsageError(f'{path}: expected a configuration file that ends in .py, .json or .yaml')
    if path.resolve() in parents:
        raise UsageError(f'{path}: inherits from itself through _base_')
    if not path.is_file():
        raise UsageError(f'{path}: no such configuration file')
    try:
        with open(path, 'rb') as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise UsageError(f'{path}: more than {_MAX_BYTES} bytes; expected a configuration')
        table = {'.py': _parse_python, '.json': _parse_json}.get(path.suffix, _parse_yaml)(raw.decode(), str(path))
    except SyntaxError as error:
        raise UsageError(f'{path}:{error.lineno}: {error.msg}') from None
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f'{path}: cannot be read as a configuration ({error or type(error).__name__})') from None
    bases = table.pop('_base_', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list | tuple) or not all(isinstance(base, str) for base in bases):
        raise UsageError(f'{table.where["_base_"]}: _base_: expected a file name or a list of them')
    inherited = [_read(path.parent / base, (*parents, path.resolve())) for base in bases]
    return reduce(_merge, [*inherited, table], Table())


def _merge(base: Table, child: Table) -> Table:
    """A new table: ``child`` over ``base``, key by key."""
    if child.get('_delete_') is True:
        base = Table()
    merged = Table(base, {**base.where, **child.where})
    for key, value in child.items():
        if isinstance(value, Table):
            old = base.get(key)
            value = _merge(old if isinstance(old, Table) else Table(), value)
        merged[key] = value
    merged.pop('_delete_', None)
    return merged


def _parse_python(text: str, file: str) -> Table:
    reader = _Reader(file, {'True': True, 'False': False, 'None': None})
    table = Table()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            continue  # a docstring
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise reader.refuse(node, 'expected an assignment, name = value')
        name = node.targets[0].id
        value = reader.names[name] = reader.bounded(node, reader.value(node.value))
        if name == '_base_' or not name.startswith('_'):
            table.put(name, value, reader.where(node))
    return table


def _parse_json(text: str, file: str) -> Table:
    try:
        data = json.loads(text, object_pairs_hook=list, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise UsageError(f'{file}:{error.lineno}: {error.msg}') from None

    # Apart from escapes and three names, JSON is a Python expression, whose nodes know their lines.
    def located(node: ast.expr, value: Any) -> Any:
        if isinstance(node, ast.Dict):
            table = Table()
            for key_node, item, (key, inner) in zip(node.keys, node.values, value):
                assert key_node is not None
                where = f'{file}:{key_node.lineno}'
                if key in table:
                    raise UsageError(f'{where}: {key!r}: expected a new key')
                table.put(key, located(item, inner), where)
            return table
        return [located(*pair) for pair in zip(node.elts, value)] if isinstance(node, ast.List) else value

    plain = re.sub(r'\\.', '_', text)
    table = located(ast.parse(f'({plain})', mode='eval').body, data)
    if not isinstance(table, Table):
        raise UsageError(f'{file}:1: expected an object with keys')
    return table


def _no_number(name: str) -> float:
    raise ValueError(f'{name} is not a number')


def _parse_yaml(text: str, file: str) -> Table:
    loader = yaml.SafeLoader(text)
    plain_tags = (loader.DEFAULT_MAPPING_TAG, loader.DEFAULT_SEQUENCE_TAG)

    def value(node: yaml.Node) -> Any:
        where = f'{file}:{node.start_mark.line + 1}'
        if not isinstance(node, yaml.ScalarNode) and node.tag not in plain_tags:
            raise UsageError(f'{where}: {node.tag} is not data for a configuration')
        if isinstance(node, yaml.MappingNode):
            table = Table()
            for key_node, value_node in node.value:
                key, where = loader.construct_object(key_node), f'{file}:{key_node.start_mark.line + 1}'
                if not isinstance(key, str) or key in table:
                    raise UsageError(f'{where}: {key!r}: expected a new key that is text')
                table.put(key, value(value_node), where)
            return table
        if isinstance(node, yaml.SequenceNode):
            return [value(item) for item in node.value]
        plain = loader.construct_object(node)
        if not isinstance(plain, str | int | float | bool | None):
            raise UsageError(f'{where}: {type(plain).__name__} is not data for a configuration')
        return plain

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UsageError(f'{file}: aliases (*name) are not read; write the value out')
        node = loader.get_single_node()
        table = value(node) if node else Table()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f'{file}:{line}: {error.problem}') from None
    except yaml.YAMLError as error:
        raise UsageError(f'{file}: {error}') from None
    if not isinstance(table, Table):
        raise UsageError(f'{file}:1: expected keys with values')
    return table


class _Reader:
    """Evaluates the few kinds of expression that are data."""

    def __init__(self, file: str, names: dict[str, Any]) -> None:
        self.file, self.names = file, names

    def where(self, node: ast.AST) -> str:
        return f'{self.file}:{node.lineno}' if hasattr(node, 'lineno') else self.file

    def refuse(self, node: ast.AST, why: str) -> UsageError:
        source = ' '.join(ast.unparse(node).split())
        source = source if len(source) <= 60 else source[:57] + '...'
        return UsageError(f'{self.where(node)}: {source}: {why}; a configuration is data and is not executed')

    def value(self, node: ast.expr | None) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return node.value
            case ast.Name(id=name):
                if name not in self.names:
                    raise self.refuse(node, f'{name!r} is not defined above')
                return self.names[name]
            case ast.List(elts=items):
                return [self.value(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item) for item in items)
            case ast.Dict(keys=keys, values=values):
                return self.table(
                    node, [(key and self.value(key), value, key or value) for key, value in zip(keys, values)]
                )
            case ast.Call(func=ast.Name(id='dict'), args=[], keywords=items):
                return self.table(node, [(item.arg, item.value, item) for item in items])
            case ast.Call(func=ast.Name(id='list' | 'tuple' as kind), args=items, keywords=[]) if len(items) <= 1:
                inner = self.value(items[0]) if items else ()
                if isinstance(inner, list | tuple):
                    return list(inner) if kind == 'list' else tuple(inner)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                number = self.value(operand)
                if _is_number(number):
                    return -number if isinstance(sign, ast.USub) else number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self.arithmetic(node, self.value(left), self.value(right))
        assert node is not None
        raise self.refuse(node, 'expected a literal, dict(..), list(..), tuple(..), an earlier name or arithmetic')

    def table(self, node: ast.expr, items: list[tuple[Any, ast.expr, ast.AST]]) -> Table:
        table = Table()
        for key, value_node, key_node in items:
            value = self.value(value_node)
            if key is None and isinstance(value, Table):  # **other
                for name, item in value.items():
                    table.put(name, item, value.where[name])
            elif isinstance(key, str):
                table.put(key, value, self.where(key_node))
            else:
                raise self.refuse(node, f'key {key!r}: expected text')
        return table

    def arithmetic(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add):
            if len(left) + len(right) > _MAX_VALUES:
                raise self.refuse(node, 'too long')
            return left + right
        if not (_is_number(left) and _is_number(right)):
            raise self.refuse(node, 'arithmetic is on numbers, and + also on text')
        if isinstance(node.op, ast.Pow) and abs(right) > 1000:
            raise self.refuse(node, 'too large')
        try:
            result = _OPERATORS[type(node.op)](left, right)
            if isinstance(result, complex) or not -_MAX_NUMBER < result < _MAX_NUMBER:
                raise self.refuse(node, 'no number, or too large')
        except ArithmeticError as error:
            raise self.refuse(node, str(error)) from None
        return result

    def bounded(self, node: ast.AST, value: Any) -> Any:
        """The value, if it has a reasonable number of parts, those of shared parts counted each time."""
        sizes: dict[int, int] = {}

        def size(part: Any) -> int:
            if not isinstance(part, dict | list | tuple):
                return 1
            if id(part) not in sizes:
                sizes[id(part)] = 1 + sum(map(size, part.values() if isinstance(part, dict) else part))
            return sizes[id(part)]

        if size(value) > _MAX_VALUES:
            raise self.refuse(node, f'more than {_MAX_VALUES} values')
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
