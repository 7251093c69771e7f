"""Reading a configuration: a YAML file or a packaged one by name, and key=value over it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from forcenet_md.errors import DataError
from forcenet_md.training.config import Config, least_unlike


def packaged() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = files("forcenet_md.training").joinpath("configs")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if ".yaml" in f.name)


OURS = ("value_error", "extra_forbidden", "missing")  # faults whose words name the value


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file or of a packaged name (forcenet, small …).

    overrides: `section.key=value` with a YAML value. Where training.initial gives the weights,
    the model settings of a packaged configuration stand back for those of the file.
    Raises DataError that names the key that is wrong.
    """
    named = str(source) in packaged() and not Path(source).is_file()
    tree = _parse(_packaged_text(str(source)) if named else _text(source), source)
    own_model = tree.pop("model", {}) if named else {}
    for override in overrides:
        _override(tree, override)
    training = tree.get("training")
    if own_model and not (isinstance(training, dict) and training.get("initial")):
        _lay_under(tree, own_model)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        # A mistyped key stands before what is missing because of it.
        unknown = [one for one in error.errors() if one["type"] == "extra_forbidden"]
        first = [*unknown, *error.errors()][0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = _nearest([str(part) for part in first["loc"]])
            reason = f"there is no such setting; take {', '.join(near)}, or leave it out"
        if first["type"] == "missing":
            reason = f"it must be given; write it into the file or add {key}=VALUE to the command"
        if isinstance(first["input"], str | int | float) and first["type"] not in OURS:
            reason += f", not {first['input']}"
        raise DataError(f"{source}: {key}: {reason}.") from None


def _nearest(place: Sequence[str]) -> list[str]:
    """Keys like that of an unknown setting, in its section or another; else the least unlike ones
    of its section."""
    *sections, name = place
    known = _settings(sections)
    near = get_close_matches(name, known, n=1)
    elsewhere = [s for s in _settings([]) if name in _settings([s])]
    if elsewhere and not near:
        return [f"{section}.{name}" for section in elsewhere]
    return [".".join([*sections, one]) for one in near or least_unlike(name, known)]


def _settings(sections: Sequence[str]) -> list[str]:
    """Names of the settings of a section, none where the configuration has no such section."""
    model: Any = Config
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        model = None if field is None else field.annotation
    return list(getattr(model, "model_fields", {}))


def _lay_under(tree: dict[str, Any], model: dict[str, Any]) -> None:
    given = tree.get("model", {})
    if isinstance(given, dict):
        tree["model"] = {**model, **given}


def _packaged_text(name: str) -> str:
    return files("forcenet_md.training").joinpath("configs", f"{name}.yaml").read_text("utf-8")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"there is no file {path}: give a YAML file, or one of {', '.join(packaged())}."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a YAML file.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text: give the YAML file of the run.") from None


def _parse(text: str, source: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it cannot be parsed"
        raise DataError(f"{source} is no YAML{where} ({why}): mend the file there.") from None
    if not isinstance(tree, dict):
        raise DataError(f"{source} must be a mapping with the keys data, model and training.")
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise DataError(f"'{override}' is no override: write key=value, as training.steps=100.")
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise DataError(f"'{override}': {section} is no section of the configuration.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise DataError(f"'{override}' is no override: its value is no YAML.") from None
    _one_budget(tree, key)


def _one_budget(tree: dict[str, Any], key: str) -> None:
    """A budget or a batch on the command line takes the place of the file's other kind."""
    training = tree.get("training")
    for kinds in (("steps", "epochs", "seconds"), ("batch", "batch_edges")):
        if isinstance(training, dict) and key in [f"training.{kind}" for kind in kinds]:
            for kind in kinds:
                if f"training.{kind}" != key:
                    training.pop(kind, None)
