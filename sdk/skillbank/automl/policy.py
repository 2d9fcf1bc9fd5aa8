"""Whether a train request goes to AutoML or straight to training: a pure decision with its reasons.

An explicit policy beats words in the request text; the text can only turn AutoML off, for this run.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from skillbank.errors import UsageError
from skillbank.skill_info import load_skill_info, skill_dir
from skillbank.specs import network as find_network
from skillbank.specs._yaml import parse_text

__all__ = ["POLICIES", "Decision", "decide", "find_off_phrase", "route"]

Route = Literal["automl", "direct"]
POLICIES = ("auto", "on", "off")
# `automl_policy: off` without quotes reaches us as a YAML boolean.
_YAML_BOOL = {True: "on", False: "off"}

_KIND = r"(?:hyper[- ]?param(?:eter)?s?|param(?:eter)?|grid|random|bayesian|learning[- ]rate)"
_SEARCH = (
    rf"(?:{_KIND}[- ])?(?:search(?:es)?(?!\s+(?:space|results?|for|in|the)\b)|sweep(?:s|ing)?"
    r"|(?<!fine[- ])tuning)"
    rf"|{_KIND}[- ]optimi[sz]ation"
)
_THING = rf"(?:auto[- ]?ml|hpo|{_SEARCH})"
_OF = r"(?:(?:the|any|all|this|that|an?|its|your|our)\s+)?"
_SWITCHED_OFF = r"(?:turned\s+off|switched\s+off|off|disabled|skipped)"
_STOP = r"$|[.,;:!?()]"
# What may follow "do not tune"; "do not tune the backbone" is about a key, not about the search.
_AT_ALL = (
    rf"(?=\s*(?:{_STOP}|(?:and|but|or|just|only|please|with|on|at\s+all|anything|it|this|the\s+(?:model|network)"
    r"|(?:for\s+)?(?:the\s+|any\s+|its\s+)?hyper[- ]?param\w*)\b))"
)
# "train it once the data is there" tells when, not how often.
_ONCE = (
    rf"(?:just\s+|only\s+)?once(?=\s*(?:{_STOP}|(?:and|but|with|without|on|for|from|using|only|at|to|then|please|no)"
    r"\b))"
)
_OFF = re.compile(
    rf"""
    \b(?:
        (?:turn(?:ing)?|switch(?:ing)?)\s+off\s+{_OF}{_THING}
      | (?:turn(?:ing)?|switch(?:ing)?)\s+{_OF}{_THING}\s+off
      | (?:disabl(?:e|es|ing)|skip(?:ping)?|bypass(?:ing)?|avoid(?:ing)?|deactivat(?:e|ing))\s+{_OF}{_THING}
      | (?:do\s+not|don't|dont|never|not)\s+(?:(?:want|need|use|run|do|start|launch|to)\s+){{1,3}}
          {_OF}{_THING}(?!\s+(?:to\s+be\s+)?{_SWITCHED_OFF})
      | (?:do\s+not|don't|dont|never)\s+(?:tune|search|sweep){_AT_ALL}
      | (?:without|no(?:\s+need\s+for)?)\s+{_OF}(?:{_THING}|trials)
      | {_THING}\s*[:=]?\s*(?:(?:is|be|should\s+be|must\s+be|to\s+be|set\s+to|kept|stays?)\s+)?{_SWITCHED_OFF}
      | (?:automl[_-]policy)\s*[:=]?\s*off
      | plain\s+(?:train(?:ing)?|run)
      | (?<!every\s)(?<!each\s)single\s+(?:plain\s+)?(?:train(?:ing)?(?:\s+run)?|run)
      | (?:just|only)\s+(?:one|a)\s+(?:train(?:ing)?(?:\s+run)?|run)
      | train(?:ing)?\s+(?:[\w.-]+\s+){{0,3}}?{_ONCE}
    )\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "do not disable AutoML", "no need to turn off AutoML": a negation, then only words that carry no verb of
# their own, then the phrase. Anything else in between ("don't forget to turn off AutoML") is no negation.
_FILLER = (
    r"(?:please|ever|have|need|want|you|me|us|we|i|to|just|simply|even|really|actually|be|being|going|think|should"
    r"|must|a|an|the|do|use|using|run|running|start|launch|train|go|for|by|as|reason|necessary|required|allowed)"
)
_NEGATION = re.compile(
    rf"""(?:\b(?:not|cannot|never|no|without|rather\s+than|instead\s+of|more\s+than|\w+n't|dont|doesnt|shouldnt|mustnt|wont
         |avoid|refuse\s+to|stop)\b)(?:\s+{_FILLER})*\s*$""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which way a request goes, and why; stored with the job.

    Attributes:
        policy: ``auto``, ``on`` or ``off``, as it was understood.
        source: ``explicit``, ``text`` or ``default``.
        matched_text: words of the request that turned AutoML off; empty when none did.
        reason: one clause.
        notice: what the user should be told; empty when there is nothing unexpected.
    """

    policy: str
    source: Literal["explicit", "text", "default"]
    matched_text: str
    route: Route
    reason: str
    notice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON-ready fields."""
        return asdict(self)


def decide(
    network: str, action: str, *, policy: str | bool | None = None, text: str | None = None
) -> Decision:
    """Route a request of a network and action.

    Args:
        policy: explicit ``auto``, ``on`` or ``off`` in any case; None = not given.
        text: the request in the user's words, searched for phrases such as "disable AutoML".

    Raises:
        UsageError: no such policy, or ``on`` where AutoML cannot run.
        NotFoundError: no such network.
    """
    found = find_network(network)
    wanted, source, matched = _wanted(policy, text)
    if action != "train":
        return Decision(
            policy=wanted, source=source, matched_text=matched, route="direct",
            reason=f"{action} never goes through AutoML",
        )  # fmt: skip
    enabled, missing = False, []
    if wanted != "off":
        enabled = load_skill_info(found).automl_enabled
        missing = _unusable_files(skill_dir(found)) if enabled else []
    way, reason, notice = route(network, wanted, enabled=enabled, missing=missing)
    return Decision(
        policy=wanted, source=source, matched_text=matched, route=way, reason=reason, notice=notice
    )


def route(network: str, policy: str, *, enabled: bool, missing: list[str]) -> tuple[Route, str, str]:
    """The truth table for a train request: route, reason, notice.

    Args:
        enabled: the model's ``automl_enabled``.
        missing: packaged files AutoML needs and that are not there or do not parse.

    Raises:
        UsageError: policy ``on`` where AutoML cannot run.
    """
    if policy == "off":
        return "direct", "AutoML is turned off for this run", ""
    if enabled and not missing:
        return "automl", f"{network} is enabled for AutoML and its train schema and template are packaged", ""
    if not enabled:
        reason = f"{network} is not enabled for AutoML"
        hint, notice = "leave the policy at auto, or set it to off", ""
    else:
        reason = f"AutoML needs {' and '.join(missing)}, which cannot be read"
        hint = "skillbank generate"
        notice = f"AutoML is enabled for {network} but not runnable until schemas are generated: {reason}"
    if policy == "on":
        raise UsageError(
            f"automl_policy: 'on' cannot be followed: {reason}",
            hint=hint, key="automl_policy", value=policy, allowed=["auto", "off"],
        )  # fmt: skip
    return "direct", reason, notice


def find_off_phrase(text: str) -> str:
    """The first words that turn AutoML off and are not themselves negated; empty when there are none."""
    plain = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for match in _OFF.finditer(plain):
        clause = re.split(r"[.;:!?,()\n]", plain[: match.start()])[-1]
        if not _NEGATION.search(clause):
            return " ".join(match.group(0).split())
    return ""


def _wanted(
    policy: str | bool | None, text: str | None
) -> tuple[str, Literal["explicit", "text", "default"], str]:
    if policy is not None:
        given = _YAML_BOOL[policy] if isinstance(policy, bool) else policy.strip().lower()
        if given not in POLICIES:
            raise UsageError(
                f"automl_policy: {policy!r} is not allowed; use auto, on or off",
                hint="--automl-policy auto", key="automl_policy", value=policy, allowed=list(POLICIES),
            )  # fmt: skip
        return given, "explicit", ""
    matched = find_off_phrase(text) if text else ""
    return ("off", "text", matched) if matched else ("auto", "default", "")


def _unusable_files(folder: Path) -> list[str]:
    """Packaged files, relative to the skill, that AutoML needs and that do not exist or parse."""
    unusable = []
    for name in ("schemas/train.schema.json", "references/spec_template_train.yaml"):
        try:
            parse_text((folder / name).read_text(encoding="utf-8"), name)
        except (OSError, ValueError):
            unusable.append(name)
    return unusable
