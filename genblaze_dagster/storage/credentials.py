"""Credentials of an S3 service: given ones, or whatever the AWS configuration of the machine says.

Both kinds are obstore credential providers, so no secret is part of a store's configuration.
"""

import importlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genblaze_dagster.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import S3Credential


@dataclass(frozen=True, slots=True)
class StaticCredentials:
    """A key and its secret, neither of which appears in text forms."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __call__(self) -> "S3Credential":
        """Return the credential in obstore's form."""
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.session_token,
            "expires_at": None,
        }


@dataclass(slots=True)
class AwsConfigCredentials:
    """The credential chain of the AWS SDK: profile, SSO, web identity, container, instance.

    Looked up when first used, then refreshed by the SDK. `profile_name` None is the default one.
    """

    profile_name: str | None = None
    _session: Any = field(default=None, init=False, repr=False)
    _provider: Any = field(default=None, init=False, repr=False)

    def __call__(self) -> "S3Credential":
        """Return the credential in obstore's form.

        Raises:
            ConfigError: the machine has none, or no such profile.
        """
        if self._provider is None:
            from obstore.auth.boto3 import Boto3CredentialProvider

            session = self._open()
            if session.get_credentials() is None:
                raise ConfigError(
                    "no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "choose a profile with AWS_PROFILE, or pass access_key_id and secret_access_key"
                )
            self._provider = Boto3CredentialProvider(session)
        return self._provider()

    def region(self) -> str | None:
        """Return the region of the profile, None when it names none.

        Raises:
            ConfigError: no such profile.
        """
        return self._open().region_name

    def __getstate__(self) -> str | None:
        return self.profile_name

    def __setstate__(self, profile_name: str | None) -> None:
        self.profile_name = profile_name
        self._session = self._provider = None

    def _open(self) -> Any:
        if self._session is None:
            # The AWS SDK takes a third of a second to import: only who needs its chain pays.
            boto3 = importlib.import_module("boto3")
            exceptions = importlib.import_module("botocore.exceptions")
            try:
                self._session = boto3.Session(profile_name=self.profile_name)
            except exceptions.ProfileNotFound:
                raise ConfigError(
                    f"AWS profile {self.profile_name or os.environ.get('AWS_PROFILE')!r} does not "
                    "exist; correct the name or add it to ~/.aws/config"
                ) from None
        return self._session


Credentials = StaticCredentials | AwsConfigCredentials


def given(
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    *,
    names: tuple[str, str],
) -> StaticCredentials | None:
    """Return static credentials when both halves are there, None when neither is.

    Raises:
        ConfigError: only one half is; `names` says what the two are called.
    """
    if access_key_id and secret_access_key:
        return StaticCredentials(access_key_id, secret_access_key, session_token or None)
    if access_key_id or secret_access_key:
        missing = names[1] if access_key_id else names[0]
        raise ConfigError(f"{missing} is missing; {names[0]} and {names[1]} go together")
    return None


def from_environment(key_variable: str, secret_variable: str) -> StaticCredentials | None:
    """Return the credentials of two environment variables, None when neither is set.

    AWS_SESSION_TOKEN belongs to the AWS pair only.
    """
    token = os.environ.get("AWS_SESSION_TOKEN") if key_variable.startswith("AWS_") else None
    return given(
        os.environ.get(key_variable),
        os.environ.get(secret_variable),
        token,
        names=(key_variable, secret_variable),
    )
