"""Words of answers on the settings that an additive run's model had."""

from __future__ import annotations

from typing import Any

from taft_ray.plans.facts import Tuned


def settings_told(tuned: Tuned | None) -> dict[str, Any]:
    """The entry "settings" of an answer; none where nothing was chosen."""
    return {} if tuned is None or tuned.settings is None else {"settings": tuned.settings.to_json()}
