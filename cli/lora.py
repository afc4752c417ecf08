"""The published LoRA options of `spam pretrain`, which this version knows by name and declines."""

from typing import Any

from spam.errors import ConfigError
from spam.schemas.config import flag

from .options import Option

__all__ = ["LORA_OPTIONS", "refuse_lora"]

LORA_OPTIONS = (
    Option(
        name="with_lora", kind=bool, default=False, help="adapt the encoder by LoRA (not in this version)"
    ),
    Option(name="lora_r", kind=int | None, default=None, help="rank of LoRA, with --with-lora"),
    Option(name="lora_alpha", kind=float | None, default=None, help="scale of LoRA, with --with-lora"),
    Option(name="lora_dropout", kind=float | None, default=None, help="dropout of LoRA, with --with-lora"),
)


def refuse_lora(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without the LoRA options.

    Raises
    ------
    ConfigError
        If LoRA is asked for, or one of its settings is given without it.
    """
    names = [option.name for option in LORA_OPTIONS]
    if values.get("with_lora"):
        message = "--with-lora is not in this version; leave it out to train on the frozen encoder's features"
        raise ConfigError(message)
    if stray := [flag(name) for name in names[1:] if name in values]:
        message = f"{', '.join(stray)} changes nothing without --with-lora; leave it out"
        raise ConfigError(message)
    return {name: value for name, value in values.items() if name not in names}
