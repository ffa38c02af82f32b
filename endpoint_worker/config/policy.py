"""The site's rules: what may run here. They come from ``endpoint.toml``, never from the service.

Rules apply to the signed head of a bundle, which its sender cannot change afterwards: a function's digest is
checked against the bytes that run, and a call's size is the part of the body that its runner receives.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from umbel.protocol.environment import Environment
from umbel.protocol.messages import Bundle, Call, Outcome, Status
from umbel.system.setting_types import Size

_FUNCTION = re.compile(r"[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Rules:
    """Table ``[rules]``. A list that is None allows everything, an empty one nothing. Sizes in bytes.

    Raises ValueError for a function that is neither an id nor a digest.
    """

    allowed_functions: frozenset[str] | None = field(
        default=None,
        metadata={
            "docs": "Functions that may run: ids, or SHA-256 digests, which the service cannot bypass.",
            "example": ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],
        },
    )
    allowed_users: frozenset[str] | None = field(
        default=None, metadata={"docs": "Users whose calls may run, by name.", "example": ["ada"]}
    )
    largest_payload: Size = field(
        default=0,
        metadata={"docs": 'Size limit of a call\'s encoded arguments, such as "1MiB". 0: no limit.'},
    )

    sandbox: bool = field(
        default=False, metadata={"docs": "Run calls only in a sandbox; see [sandbox] below."}
    )

    environments: Literal["any", "named", "none"] = field(
        default="any",
        metadata={"docs": "Environments that functions may request: any, named (ready-made ones) or none."},
    )
    allowed_requirements: frozenset[str] | None = field(
        default=None,
        metadata={
            "docs": "Packages that environments may request, patterns allowed; includes their dependencies.",
            "example": ["numpy", "scikit-*"],
        },
    )

    def __post_init__(self) -> None:
        for name in ("allowed_functions", "allowed_users", "allowed_requirements"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, frozenset(getattr(self, name)))
        if self.allowed_functions is None:
            return
        given = frozenset(entry.strip().lower() for entry in self.allowed_functions)
        for entry in sorted(given):
            if not _FUNCTION.fullmatch(entry):
                raise ValueError(
                    "setting 'allowed_functions' must be a list of function ids or SHA-256 digests, "
                    f"got {entry[:70]!r}"
                )
        object.__setattr__(self, "allowed_functions", given)

    def judge(self, bundle: Bundle, *, sandboxed: bool = False) -> tuple[Bundle, list[Outcome]]:
        """Return the bundle with the calls that may run, and an outcome for each rejected call.

        ``sandboxed``: the endpoint runs calls in a sandbox.
        """
        whole = self._against_bundle(bundle)
        if whole is None and self.sandbox and not sandboxed:
            whole = (
                "rule sandbox of the endpoint's site allows calls only in a sandbox, and the endpoint has "
                "none: ask its owner to set 'kind' in [sandbox] of endpoint.toml"
            )
        if whole:
            return replace(bundle, calls=[]), [_refusal(call, whole) for call in bundle.calls]
        most = self.largest_payload
        refused = [
            _refusal(
                call,
                f"rule largest_payload of the endpoint's site rejects {call.size:,} bytes of arguments "
                f"(limit: {most:,}): pass the path of a file, or send less at once",
            )
            for call in bundle.calls
            if most and call.size > most
        ]
        if refused:
            bundle = replace(bundle, calls=[call for call in bundle.calls if call.size <= most])
        return bundle, refused

    def against_environment(self, environment: Environment) -> str | None:
        """Return why calls may not run in this environment, or None."""
        if self.environments == "none" or (self.environments == "named" and environment.name is None):
            offer = (
                "request one of the site's ready-made environments by name"
                if self.environments == "named"
                else "use the packages of the endpoint's own Python"
            )
            return f"rule environments of the endpoint's site rejects the function's environment: {offer}"
        if self.allowed_requirements is None or environment.name is not None:
            return None
        for package, text in zip(environment.packages, environment.requirements, strict=True):
            known = any(
                fnmatch.fnmatchcase(package, pattern.lower()) for pattern in self.allowed_requirements
            )
            if not known or "@" in text:
                return (
                    f"rule allowed_requirements of the endpoint's site rejects package '{text}': "
                    "ask the site to allow it"
                )
        return None

    def _against_bundle(self, bundle: Bundle) -> str | None:
        """Return why no call of the bundle may run, or None."""
        function, allowed = bundle.function, self.allowed_functions
        if allowed is not None and function.sha256 not in allowed and function.id not in allowed:
            return (
                f"rule allowed_functions of the endpoint's site rejects function '{function.name[:100]}' "
                f"(id {function.id}, sha256 {function.sha256}): ask the site to allow it"
            )
        if self.allowed_users is not None and bundle.user not in self.allowed_users:
            return (
                f"rule allowed_users of the endpoint's site rejects user '{bundle.user[:100]}': "
                "ask the site to allow you, or use another endpoint"
            )
        return None


def _refusal(call: Call, message: str) -> Outcome:
    return Outcome(call.task_id, call.attempt, Status.FAILED, code="NOT_ALLOWED", message=message)
