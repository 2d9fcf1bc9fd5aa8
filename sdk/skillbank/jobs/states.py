"""States of a job and which may follow which."""

from __future__ import annotations

from enum import StrEnum

from skillbank.errors import InvalidValueError

__all__ = ["FOLLOWS", "State", "may_follow"]


class State(StrEnum):
    """One vocabulary for all launchers; `done`, `error` and `canceled` are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    CANCELING = "canceling"
    DONE = "done"
    ERROR = "error"
    CANCELED = "canceled"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, text: str) -> State:
        """The state of that name.

        Raises:
            InvalidValueError: there is none.
        """
        known = [state.value for state in cls]
        if text not in known:
            raise InvalidValueError(
                f"state: {text!r} is no state; use {', '.join(known)}",
                hint="skillbank jobs list --state running",
                key="state",
                value=text,
                allowed=known,
            )
        return cls(text)

    @property
    def is_final(self) -> bool:
        """True when nothing may follow."""
        return self in (State.DONE, State.ERROR, State.CANCELED)


_ENDS = frozenset({State.DONE, State.ERROR, State.CANCELED})

FOLLOWS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.RUNNING, State.CANCELING, State.UNKNOWN, State.ERROR, State.CANCELED}),
    State.RUNNING: frozenset({State.PAUSING, State.CANCELING, State.UNKNOWN}) | _ENDS,
    State.PAUSING: frozenset({State.PAUSED, State.CANCELING, State.UNKNOWN}) | _ENDS,
    State.PAUSED: frozenset({State.RESUMING, State.CANCELING, State.UNKNOWN, State.ERROR, State.CANCELED}),
    State.RESUMING: frozenset({State.RUNNING, State.CANCELING, State.UNKNOWN, State.ERROR, State.CANCELED}),
    State.CANCELING: frozenset({State.UNKNOWN}) | _ENDS,
    State.UNKNOWN: frozenset(set(State) - {State.UNKNOWN}),
    State.DONE: frozenset(),
    State.ERROR: frozenset(),
    State.CANCELED: frozenset(),
}


def may_follow(now: State, then: State) -> bool:
    """Whether a job in state `now` may go to state `then`."""
    return then in FOLLOWS[now]
