"""Which keys LLaMA-Factory knows, and of which type: read from its source, without starting it.

It takes 20 seconds to name a misspelt key, and for a value of the wrong type it does not even name
that. Its arguments are dataclasses, so their source says all there is to know.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from core.errors import ConfigError

_FILES = (
    *(("llamafactory", f"hparams/{name}_args.py") for name in ("data", "finetuning", "generating")),
    *(("llamafactory", f"hparams/{name}_args.py") for name in ("model", "training")),
    ("transformers", "training_args.py"),
    ("transformers", "training_args_seq2seq.py"),
)
_TEMPLATE = re.compile(r'^ +name="([^"]+)",$', re.MULTILINE)
# PyYAML reads 1e-4 as a text; LLaMA-Factory's own parser makes a number of it.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key's value may be; nothing of both where anything may."""

    types: frozenset[str] = frozenset()
    choices: tuple[object, ...] = ()

    def problem(self, value: object) -> str:
        """What is wrong with this value, "" for nothing."""
        if self.choices:
            known = ", ".join(map(repr, self.choices))
            return "" if value in self.choices else f"allowed are {known}"
        if not self.types or any(_is_a(value, name) for name in self.types):
            return ""
        return f"it must be {' or '.join(sorted(self.types))}"


def check_keys(keys: Mapping[str, object]) -> None:
    """Raise one `ConfigError` for every key or value that LLaMA-Factory would stumble over.

    Where LLaMA-Factory is not installed beside us, it has the last word itself.
    """
    known = _known_keys()
    if not known:
        return
    problems = [
        problem for name, value in keys.items() if (problem := _problem(known, name, value))
    ]
    problems += _contradictions(keys)
    if problems:
        raise ConfigError("\n".join(problems))


def _problem(known: Mapping[str, _Key], name: str, value: object) -> str:
    if name not in known:
        return _unknown("key", name, known)
    wrong = known[name].problem(value)
    return f"The recipe's {name} is {value!r}: {wrong}." if wrong else ""


def _contradictions(keys: Mapping[str, object]) -> Iterator[str]:
    """What only shows when all keys are seen together."""
    template = keys.get("template")
    templates = _templates()
    if template is not None and templates and template not in templates:
        yield _unknown("template", str(template), templates)
    if keys.get("dpo_label_smoothing") and keys.get("pref_loss", "sigmoid") != "sigmoid":
        yield "The recipe's dpo_label_smoothing needs pref_loss: sigmoid. Take one of them away."
    if keys.get("val_size") and keys.get("eval_dataset"):
        yield "The recipe has val_size and eval_dataset. Take one of them away."


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Take it out of the recipe."
    return f"LLaMA-Factory has no {what} {name!r}. {hint}"


def _is_a(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "bool"
    if name == "float" and isinstance(value, str):
        return _is_number(value)
    return isinstance(value, _TYPES[name])


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@lru_cache
def _known_keys() -> dict[str, _Key]:
    found: dict[str, _Key] = {}
    for package, name in _FILES:
        path = _source(package, name)
        if path is None:
            return {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= dict(_fields(node))
    return found


@lru_cache
def _templates() -> frozenset[str]:
    path = _source("llamafactory", "data/template.py")
    return frozenset(_TEMPLATE.findall(path.read_text(encoding="utf-8")) if path else ())


def _source(package: str, name: str) -> Path | None:
    # Finds the package without importing it.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.exists() else None


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, _Key]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id, _key(line.annotation)


def _key(annotation: ast.expr) -> _Key:
    """What an annotation such as `int | None` or `Literal["a", "b"]` allows."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return _Key(choices=tuple(ast.literal_eval(annotation.slice)))
    words = set(re.findall(r"[A-Za-z_]+", ast.unparse(annotation))) - {"None", "Optional", "Union"}
    # A list, a dictionary or an enum may be written in many ways.
    return _Key(frozenset(words)) if words and words <= set(_TYPES) else _Key()
