"""What becomes of the settings of answers when another model is put in use, or an answer is gone on with.

Job: `carried`, a preset's settings with those of the user's; `drawn`, those of a kept answer; `told` and
`told_of_more`, the lines about what changed.
Non-job: the fields of the page (`settings`), sampling (`sampling`).

A setting that is not what the model before brought along is the user's, and stays. The others are those that the new
model brings along.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Final

from spec_engine.config import GenerationDefaults
from spec_engine.ui import text

_DRAWN_ONLY: Final = ("top_k", "top_p", "min_p", "seed")  # without effect at temperature 0


def carried(own: GenerationDefaults, before: GenerationDefaults, now: GenerationDefaults) -> GenerationDefaults:
    """A model's own settings with what is set `now` and was not brought along by the model `before`."""
    return replace(own, **{name: getattr(now, name) for name in _different(now, before)})


def told(title: str, own: GenerationDefaults, before: GenerationDefaults, after: GenerationDefaults) -> str:
    """What the settings of a model have changed `before` to, and what stays that it has otherwise; "" for nothing that
    an answer would show."""
    changes = [
        f"{_spelled(after, name)} ({text.SETTING_WAS.format(before=_value(before, name))})"
        for name in _different(after, before)
        if _counts(after, name)
    ]
    stays = [_spelled(after, name) for name in _different(after, own) if _counts(after, name)]
    lines = [text.SETTINGS_BROUGHT.format(title=title, changes=", ".join(changes))] if changes else []
    lines += [text.SETTINGS_STAY.format(settings=", ".join(stays))] if stays else []
    return " ".join(lines)


def drawn(details: Mapping[str, object], now: GenerationDefaults) -> GenerationDefaults:
    """The settings of an answer that was kept `details` of: its own as far as they say so, else those of `now`."""
    names = [each.name for each in fields(now) if each.name != "max_tokens"]  # that is the whole answer's
    own = {name: details[name] for name in names if isinstance(details.get(name), int | float)}
    return replace(now, **own)  # type: ignore[arg-type]


def told_of_more(details: Mapping[str, object], now: GenerationDefaults) -> str:
    """That what is added to an answer is drawn in another way than what was kept `details` of; "" if it is not."""
    before = drawn(details, now)
    heat = before.temperature
    names = [name for name in _different(now, before) if name == "temperature" or (_counts(now, name) and heat > 0)]
    if not names:
        return ""
    kinds = [", ".join(_spelled(settings, name) for name in names) for settings in (now, before)]
    return text.GOES_ON_OTHERWISE.format(now=kinds[0], before=kinds[1])


def _different(one: GenerationDefaults, other: GenerationDefaults) -> Iterable[str]:
    """Names of the settings in which two differ."""
    return [each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)]


def _counts(settings: GenerationDefaults, name: str) -> bool:
    """Whether answers depend on a setting."""
    return settings.temperature > 0 or name not in _DRAWN_ONLY


def _spelled(settings: GenerationDefaults, name: str) -> str:
    """A setting with its name."""
    return text.SETTING_NAMES[name].format(_value(settings, name))


def _value(settings: GenerationDefaults, name: str) -> str:
    value = getattr(settings, name)
    return text.count(value) if isinstance(value, int) and name != "seed" else f"{value:g}"
