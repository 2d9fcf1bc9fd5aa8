import pytest

from skillbank.jobs.states import FOLLOWS, State, may_follow


def test_every_state_has_its_followers() -> None:
    assert set(FOLLOWS) == set(State)


@pytest.mark.parametrize("state", list(State))
def test_nothing_follows_a_final_state_and_every_other_can_end(state: State) -> None:
    assert any(may_follow(state, then) for then in State) is not state.is_final
    if not state.is_final:
        assert may_follow(state, State.ERROR)
        assert may_follow(state, State.CANCELED)


def test_unknown_is_never_final() -> None:
    assert not State.UNKNOWN.is_final
    assert may_follow(State.UNKNOWN, State.RUNNING)
