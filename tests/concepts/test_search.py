"""The search on a net with a backdoor built in by hand."""

from __future__ import annotations

from onnx_soda.concepts.battery import concept_battery


def test_the_battery_is_fixed_and_can_be_rendered_and_described() -> None:
    for channels in (1, 3):
        battery = concept_battery(channels)
        assert battery == concept_battery(channels)
        assert len({concept.describe() for concept in battery}) > 0.9 * len(battery)
        for concept in battery:
            concept.render((channels, 12, 12))
