"""References to secrets; settings never contain the secret itself."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic

from lepton_tasks.core.errors import ConfigError


class Secret(pydantic.BaseModel):
    """Reference to a secret in an environment variable or a file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    env: str | None = pydantic.Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable."""
    file: Path | None = None
    """File that contains only the secret."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _not_itself(cls, value: object) -> object:
        if isinstance(value, str):  # pydantic's own message would show the value
            raise ValueError("a secret does not belong here: give {env: VARIABLE} or {file: PATH}")
        return value

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either `env` or `file`")
        return self

    def read(self) -> str:
        """The secret; raises `ConfigError` if it is missing."""
        where = self.env or str(self.file)
        try:
            text = os.environ.get(self.env, "") if self.env else Path(str(self.file)).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("the secret cannot be read.", where=where) from error
        if not text.strip():
            raise ConfigError("the secret is not set.", where=where, fix="Set it where this process is started.")
        return text.strip()
