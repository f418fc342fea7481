"""Settings of a command: flags over a YAML file over defaults, into one typed model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["number", "parse_resolution", "parse_set", "read_config", "resolve"]


def resolve[M: BaseModel](
    model: type[M],
    given: Mapping[str, Any],
    *,
    config: str | Path | None = None,
    what: str = "configuration",
    aliases: Mapping[str, str] | None = None,
) -> M:
    """Build the settings of a command.

    Parameters
    ----------
    model : type
        Pydantic model of the settings.
    given : mapping
        What the caller gave; None means not given. Wins over the file, mappings key by key.
    config : path, optional
        YAML file with the same names (``n-valid`` and ``n_valid`` are the same).
    what : str
        Of whom the names are, for messages.
    aliases : mapping, optional
        Other names: ``{"set": "params"}``.

    Raises
    ------
    UsageError
        Unknown name, bad value, or a file that is no YAML mapping: one line.
    """
    from pydantic import ValidationError

    from pde_data.problem import validation_line

    aliases = aliases or {}
    allowed = [*model.model_fields, *aliases]
    values: dict[str, Any] = {}
    if config is not None:
        values = {aliases.get(k, k): v for k, v in read_config(config, allowed).items()}
    for name, value in given.items():
        _check_known(name, allowed, what)
        name = aliases.get(name, name)
        if value is None:
            continue
        old = values.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = {**old, **value}
        values[name] = value
    for name, field in model.model_fields.items():
        if field.is_required() and name not in values:
            raise UsageError(f"{what}: {name} is missing")
    try:
        return model(**values)
    except ValidationError as e:
        raise UsageError(validation_line(e)) from None


def read_config(path: str | Path, allowed: Iterable[str]) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    UsageError
        Missing, no YAML, no mapping, or a key that is not in `allowed`.
    """
    import yaml

    path = Path(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"--config {path}: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"--config {path}: not YAML: {' '.join(str(e).split())}") from None
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path}: need 'name: value' lines, found {loaded!r}")
    values = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        _check_known(name, list(allowed), f"--config {path}")
        values[name] = value
    return values


def _check_known(name: str, allowed: Sequence[str], what: str) -> None:
    if name not in allowed:
        from solvers.names import suggest

        raise UsageError(
            f"{what}: unknown name {name!r}.{suggest(name, allowed)} Allowed: {', '.join(allowed)}."
        )


def parse_set(items: Iterable[str], flag: str = "--set") -> dict[str, Any]:
    """``["alpha=2.5", "kind=smooth"]`` as ``{"alpha": 2.5, "kind": "smooth"}``; values are YAML.

    Raises
    ------
    UsageError
        No ``=``, no name, a name given twice, or a value that is no YAML.
    """
    import yaml

    out: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"{flag} {item!r}: need key=value")
        if key in out:
            raise UsageError(f"{flag} {item!r}: {key} is given twice")
        try:
            out[key] = _float(yaml.safe_load(text))
        except yaml.YAMLError:
            raise UsageError(f"{flag} {item!r}: {text!r} is not a YAML value") from None
    return out


def _float(value: Any) -> Any:
    """YAML 1.1 takes ``1e-3`` for text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value) if any(c.isdigit() for c in value) else value
        except ValueError:
            return value
    return value


def number(text: str | None) -> int | float | str | None:
    """``"5"`` as 5, ``"0.5"`` as 0.5; what is no number stays text for the settings to judge."""
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    return text


def resolutions(text: str | None) -> tuple[int | tuple[int, ...], ...] | None:
    """``"32,64"`` as the two resolutions (32, 64); ``"32x64,64x128"`` gives each axis its own.

    Raises
    ------
    UsageError
        An entry that is no integer.
    """
    if text is None:
        return None
    out: list[int | tuple[int, ...]] = []
    for part in text.split(","):
        try:
            shape = tuple(int(n) for n in part.split("x"))
        except ValueError:
            raise UsageError(
                f"--resolution {text!r}: need integers such as 32,64, or 32x64,64x128 for one "
                "an axis"
            ) from None
        out.append(shape[0] if len(shape) == 1 else shape)
    return tuple(out)


def parse_resolution(text: str | None) -> int | tuple[int, ...] | None:
    """``"128"`` as 128, ``"128x64"`` or ``"128,64"`` as (128, 64).

    Raises
    ------
    UsageError
        An entry that is no integer.
    """
    if text is None:
        return None
    try:
        entries = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise UsageError(
            f"--resolution {text!r}: need an integer, or one an axis such as 128x64"
        ) from None
    return entries[0] if len(entries) == 1 else entries
