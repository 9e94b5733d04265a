"""What all sections of config.toml share."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from daemon.config.values import SECONDS


class Section(BaseModel):
    """Unknown keys are refused, values do not change, and errors show no value."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # Defaults too: a relative one becomes absolute like any other.
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1.
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float) and SECONDS not in field.metadata:
            raise ValueError("is no number; give one")
        return value
