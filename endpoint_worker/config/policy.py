"""The site's rules: what may run here, from the endpoint's own ``endpoint.toml`` whatever the service says.

A bundle is judged by its signed head and by nothing that its sender could change afterwards: a function's
digest is checked against the bytes that are run, a call's size is what its runner is given of the body.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from umbel.protocol.environment import Environment
from umbel.protocol.messages import Bundle, Call, Outcome, Status

_FUNCTION = re.compile(r"[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Rules:
    """Table ``[rules]``. A list that is None allows all, an empty one nothing; ``largest_payload``: bytes.

    Raises ValueError for what can never match.
    """

    allowed_functions: Collection[str] | None = field(
        default=None,
        metadata={
            "docs": "Functions that may run: ids, or SHA-256 digests, which the service cannot get round.",
            "example": ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],
        },
    )
    allowed_users: Collection[str] | None = field(
        default=None, metadata={"docs": "Users whose calls may run, by name.", "example": ["ada"]}
    )
    largest_payload: int = field(
        default=0,
        metadata={
            "docs": 'Most bytes that a call\'s arguments may take on their way, such as "1MiB". 0: no limit.',
            "size": True,
        },
    )

    sandbox: bool = field(
        default=False, metadata={"docs": "Whether calls may run in a sandbox only; see [sandbox] below."}
    )

    environments: str = field(
        default="any",
        metadata={
            "docs": "What functions may ask for: any environment, those that are ready (named), or none.",
        },
    )
    allowed_requirements: Collection[str] | None = field(
        default=None,
        metadata={
            "docs": "Packages that environments may name, patterns allowed; what those need comes with them.",
            "example": ["numpy", "scikit-*"],
        },
    )

    def __post_init__(self) -> None:
        if self.allowed_functions is not None:
            given = frozenset(entry.strip().lower() for entry in self.allowed_functions)
            for entry in sorted(given):
                if not _FUNCTION.fullmatch(entry):
                    raise ValueError(
                        f"'{entry}' in 'allowed_functions' is neither a function's id nor its SHA-256 digest"
                    )
            object.__setattr__(self, "allowed_functions", given)
        if self.environments not in ("any", "named", "none"):
            raise ValueError(f"setting 'environments' wants any, named or none, not '{self.environments}'")
        if self.allowed_users is not None:
            object.__setattr__(self, "allowed_users", frozenset(self.allowed_users))

    def judge(self, bundle: Bundle, *, closed: bool = False) -> tuple[Bundle, list[Outcome]]:
        """Return the bundle with the calls that may run, and an outcome for each that may not.

        ``closed``: the endpoint runs calls in a sandbox.
        """
        whole = self._against_bundle(bundle)
        if whole is None and self.sandbox and not closed:
            whole = (
                "rule sandbox of the endpoint's site refuses to run calls outside a sandbox; the endpoint "
                "has none: its owner sets 'kind' in [sandbox] of endpoint.toml"
            )
        if whole:
            return replace(bundle, calls=[]), [_refusal(call, whole) for call in bundle.calls]
        most = self.largest_payload
        refused = [
            _refusal(
                call,
                f"rule largest_payload of the endpoint's site refuses {call.size:,} bytes of arguments "
                f"({most:,} are allowed): pass the path of a file instead, or less at once",
            )
            for call in bundle.calls
            if most and call.size > most
        ]
        if refused:
            bundle = replace(bundle, calls=[call for call in bundle.calls if call.size <= most])
        return bundle, refused

    def against_environment(self, environment: Environment) -> str | None:
        """Why calls may not run in this environment, or None."""
        if self.environments == "none" or (self.environments == "named" and environment.name is None):
            offer = (
                "ask for one that the site has ready, by its name"
                if self.environments == "named"
                else ("use what the endpoint's own Python has")
            )
            return f"rule environments of the endpoint's site refuses what the function asks for: {offer}"
        if self.allowed_requirements is None or environment.name is not None:
            return None
        for package, text in zip(environment.packages, environment.requirements, strict=True):
            known = any(
                fnmatch.fnmatchcase(package, pattern.lower()) for pattern in self.allowed_requirements
            )
            if not known or "@" in text:
                return (
                    f"rule allowed_requirements of the endpoint's site refuses package '{text}': "
                    "ask the site to allow it"
                )
        return None

    def _against_bundle(self, bundle: Bundle) -> str | None:
        """Why no call of the bundle may run, or None."""
        function, allowed = bundle.function, self.allowed_functions
        if allowed is not None and function.sha256 not in allowed and function.id not in allowed:
            return (
                f"rule allowed_functions of the endpoint's site refuses function '{function.name[:100]}' "
                f"(id {function.id}, sha256 {function.sha256}): ask the site to allow it"
            )
        if self.allowed_users is not None and bundle.user not in self.allowed_users:
            return (
                f"rule allowed_users of the endpoint's site refuses user '{bundle.user[:100]}': "
                "ask the site to allow you, or use another endpoint"
            )
        return None


def _refusal(call: Call, message: str) -> Outcome:
    return Outcome(call.task_id, call.attempt, Status.FAILED, code="NOT_ALLOWED", message=message)
