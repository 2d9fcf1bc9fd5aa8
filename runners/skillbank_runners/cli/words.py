"""Words of a command line that are known at run time only: networks and their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from skillbank_runners.cli.table import Leaf, Scope, Table

__all__ = ["ACTION", "NETWORK", "Actions", "Networks"]

NETWORK = "NETWORK"
ACTION = "ACTION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """The actions of a network as words: ``tao mask2former train -e spec.yaml``."""

    network: str
    leaf: Leaf

    def _leaf(self, action: str) -> Leaf:
        return replace(self.leaf, scope=Scope(network=self.network, action=action))

    def names(self) -> Sequence[tuple[str, str]]:
        """Actions with what they do."""
        from skillbank.specs import network
        from skillbank_runners.cli.index import action_descriptions

        found = network(self.network)
        said = action_descriptions(found)
        return [(name, said.get(name) or _first_line(spec.__doc__)) for name, spec in found.actions.items()]

    def find(self, word: str) -> Leaf | None:
        """The action of that name, in either spelling of ``_`` and ``-``."""
        from skillbank.specs import network

        known = network(self.network).actions
        for name in (word, word.replace("-", "_")):
            if name in known:
                return self._leaf(name)
        return None

    def sample(self) -> tuple[str, Leaf]:
        """The placeholder of the command reference."""
        return ACTION, self._leaf(ACTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Network names as words.

    Attributes:
        summary: of a network's table; ``{network}`` is replaced, here and in `example`.
        verbs: commands that every network has.
        action: what an action's name means; None = actions are no words here.
    """

    summary: str
    example: str
    verbs: Mapping[str, Leaf] = field(default_factory=dict)
    action: Leaf | None = None

    def names(self) -> Sequence[tuple[str, str]]:
        """Networks with what they do."""
        from skillbank_runners.cli.index import network_titles

        return list(network_titles().items())

    def find(self, word: str) -> Table:
        """The commands of a network.

        Raises:
            NotFoundError: no such network.
        """
        from skillbank.specs import network, network_names

        if word not in network_names():
            network(word)
        return self._table(word)

    def sample(self) -> tuple[str, Table]:
        """The placeholder of the command reference."""
        return NETWORK, self._table(NETWORK)

    def _table(self, name: str) -> Table:
        scope = Scope(network=name)
        return Table(
            summary=self.summary.format(network=name),
            example=self.example.format(network="mask2former" if name == NETWORK else name),
            commands={word: replace(leaf, scope=scope) for word, leaf in self.verbs.items()},
            more=Actions(network=name, leaf=self.action) if self.action else None,
        )


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]
