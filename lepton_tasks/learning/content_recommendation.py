"""Learning task `content_recommendation`: similar items by their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from lepton_tasks.learning.item_recommendation import ItemRecommendation

if TYPE_CHECKING:
    from torch import nn

    from lepton_tasks.models.content_tower import ContentTower


class ContentRecommendation(ItemRecommendation):
    """Variant of `item_recommendation` whose items are described only by their text.

    Args:
        fitted: Of the extractor ``content``.
        labels: None.
        history: Number of the user's latest items passed to the network.
        negatives: Negatives sampled per interaction.
        answers: Number of recommended items.
    """

    features: ClassVar[tuple[str, ...]] = ("content",)
    network_parameters: ClassVar[tuple[str, ...]] = ("num_items", "num_words", "item_words")

    def network_arguments(self) -> dict[str, Any]:
        """``num_items``, ``num_words`` and ``item_words``, the maximum words per item."""
        return {
            "num_items": len(self.fitted["items"]),
            "num_words": len(self.fitted["words"]),
            "item_words": max(1, *map(len, self.fitted["item_words"])),
        }

    def initialise(self, network: nn.Module) -> None:
        """Load the words of each item and their weights."""
        cast("ContentTower", network).describe(self.fitted["item_words"], self.fitted["weights"])

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns item names and titles."""
        return "items", {"items": self.fitted["items"], "titles": self.fitted["titles"]}
