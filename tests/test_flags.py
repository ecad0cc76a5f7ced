"""Flags of a network's own, read off its functions."""

from pathlib import Path
from typing import Literal

import pytest

from compress.core.errors import UsageError
from compress.core.options import Common
from compress.jobs.flags import describe, fitting, take


def build(width: int | None = None, blocks: Literal["residual", "rsu"] = "residual", *, classes: int = 21):
    """Build it.

    Args:
        blocks: What it is made of.
    """


def teach(task, data, *, gan: bool = True, quality: str = "iou", weight: float = 1.0, file: Path | None = None,
          losses: tuple[Literal["ce", "dice"], ...] = ("ce",)):  # fmt: skip
    """Teach it.

    Args:
        gan: Train against a discriminator,
            as published.
        quality: What it regresses.
    """


def took(*tokens, **common):
    return take((build, teach), tokens, "net", Common(**common))


def test_without_words_everything_has_its_default():
    assert took().values == (
        {"width": None, "blocks": "residual", "classes": 21},
        {"gan": True, "quality": "iou", "weight": 1.0, "file": None, "losses": ("ce",)},
    )


def test_words_become_values_of_their_types():
    built, taught = took("--width", "8", "--blocks=rsu", "--no-gan", "--weight", "0.5", "--losses", "ce", "--losses",
                         "dice").values  # fmt: skip
    assert built == {"width": 8, "blocks": "rsu", "classes": 21}
    assert taught["gan"] is False
    assert taught["weight"] == 0.5
    assert taught["losses"] == ("ce", "dice")


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (("--widht", "8"), "did you mean '--width'"),
        (("--jsno",), "did you mean '--json'"),  # a common flag mistyped lands here too
        (("--width", "x"), "unable to convert"),
        (("--blocks", "cube"), "residual"),
        (("stray",), "stray"),
    ],
)
def test_a_wrong_word_is_told_with_what_there_is(tokens, told):
    with pytest.raises(UsageError, match=r"flags of net's own: --width, --blocks") as raised:
        took(*tokens)
    assert told in str(raised.value)


def test_keys_of_the_config_file_are_flags_too_and_the_command_line_wins(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('width = 4\ngan = false\nquality = "module"\nlosses = ["dice"]\nquiet = true\n')
    built, taught = took("--quality", "percent", config=config).values
    assert built["width"] == 4
    assert taught["gan"] is False
    assert taught["quality"] == "percent"
    assert taught["losses"] == ("dice",)


def test_a_file_counts_by_its_content(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"same")
    other.write_bytes(b"same")
    settings = [took("--file", str(path)).settings for path in (one, other)]
    assert settings[0] == settings[1]
    assert "width" not in settings[0]  # what is None is left to the builder
    with pytest.raises(UsageError, match="no file"):
        _ = took("--file", str(tmp_path / "c")).settings


def test_what_the_data_asks_wins_over_a_default_and_refuses_another_word():
    assert fitting({"width": None, "classes": 21}, {"classes": 5}, build) == {"classes": 5}
    assert fitting({"width": 8, "classes": 5}, {"classes": 5}, build) == {"width": 8, "classes": 5}
    with pytest.raises(UsageError, match="--classes 7 does not fit the data, which has 5"):
        fitting({"classes": 7}, {"classes": 5}, build)


def test_help_tells_defaults_choices_and_meaning():
    text = "\n".join(describe((build, teach)))
    assert "--no-gan" in text
    assert "Train against a discriminator, as published." in text
    assert "(residual|rsu)" in text
