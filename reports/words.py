"""Numbers as people read them: the only place where seconds become milliseconds and bytes megabytes (10^6)."""

from __future__ import annotations

import math

from compress.kit.intervals import Interval

MISSING = "not measured"
TITLES = {
    "loss": "Loss",
    "mae": "MAE",
    "maxf": "maxF",
    "smeasure": "S\N{NON-BREAKING HYPHEN}measure",
    "dead_masks": "Dead masks",
    "miou": "mIoU",
    "iou": "IoU",
    "pixel_accuracy": "Pixel accuracy",
    "dice": "Dice",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "deltae": "ΔE2000",
    "lpips": "LPIPS",
    "fid": "FID",
    "percent": "Percent right",
    "rand": "Rand score",
    "colorfulness": "Colorfulness",
}
MEANINGS = {
    "loss": "the task's measure of error, of the picture as it ships; mean over images",
    "mae": "mean absolute error of the picture as shipped, not stretched; 0 to 1",
    "maxf": "F-measure (β² = 0.3) at the data set's best threshold; 0 to 1",
    "smeasure": "structure measure, likeness of object and region; 0 to 1",
    "dead_masks": "images that came out flat where the true picture is not: nothing can be done with them",
    "miou": "intersection over union over the whole set, mean over classes; 0 to 1",
    "iou": "intersection over union of the cut mask and the true one; 0 to 1",
    "pixel_accuracy": "share of labelled pixels whose class is right; 0 to 1",
    "dice": "Dice coefficient over the whole set, mean over classes; 0 to 1",
    "psnr": "peak signal to noise ratio in dB, mean over images",
    "ssim": "structural similarity; 1 is the same picture",
    "deltae": "colour difference CIEDE2000, mean over pixels; 1 can just be seen",
    "lpips": "learned perceptual distance, by the weights that were given",
    "fid": "Fréchet distance of feature statistics, by the network that was given",
    "percent": "share of pixels right after the mask is cut at one half; 0 to 1",
    "rand": "foreground-restricted Rand score of the cells that the mask cuts out; 0 to 1",
    "colorfulness": "Hasler and Süsstrunk's measure of how colourful the picture is; more is not always better",
}
ARROWS = {"lower": "↓", "higher": "↑", "none": ""}


def three(value: float) -> str:
    """Three significant digits without an exponent: 157, 41.4, 9.80, 0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"


def mb(value: float) -> str:
    """Bytes as megabytes, 10^6."""
    return three(value / 1e6)


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return three(seconds * 1e3)


def number(value: float) -> str:
    """A loss or metric: four significant digits."""
    return f"{value:#.4g}" if math.isfinite(value) else f"{value:g}"


def count(value: float) -> str:
    """A count, short: 39.3 M, 2.45 M, 37.1 G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{three(value / size)} {unit}"
    return f"{value:.0f}"


def tiny(value: float) -> str:
    """A difference that may be very small: 0, 3.1e-6, 0.00710, 1.25."""
    if value == 0 or not math.isfinite(value) or abs(value) >= 1e-3:
        return three(value) if value >= 0 or not math.isfinite(value) else f"−{three(-value)}"
    digits, power = f"{abs(value):.1e}".split("e")
    return f"{'−' if value < 0 else ''}{digits}e−{abs(int(power))}"


def signed(value: float) -> str:
    """A small difference with its sign: +1.2e−8, −0.00300, 0."""
    return f"+{tiny(value)}" if value > 0 else tiny(value)


def many(number: float, noun: str) -> str:
    """A count and its noun: "1 image", "24 images"."""
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"


def percent(change: float) -> str:
    """A share as a signed percentage with a true minus sign."""
    text = f"{100 * change:+.1f}"
    return text.replace("-", "−")


def title(quantity: str) -> str:
    """What a quantity is called in a heading."""
    return TITLES.get(quantity, quantity.replace("_", " "))


def smaller(ratio: float) -> str:
    """Teacher's size over the model's, in words."""
    if f"{ratio:.2f}" == "1.00":
        return "same size"
    return f"{three(ratio)}× smaller" if ratio > 1 else f"{three(1 / ratio)}× larger"


def faster(interval: Interval) -> tuple[str, ...]:
    """Teacher's latency over the model's, in words and with its interval; no claim where that holds 1."""
    low, high = interval.low, interval.high
    if low is None or high is None:
        return _times(interval.value), "too few repeats"
    if not interval.beyond(1):
        return "no measurable change", f"[{three(low)}, {three(high)}]"
    ends = (low, high) if interval.value >= 1 else (1 / high, 1 / low)
    return _times(interval.value), f"[{three(ends[0])}, {three(ends[1])}]"


def _times(ratio: float) -> str:
    return f"{three(ratio)}× faster" if ratio >= 1 else f"{three(1 / ratio)}× slower"


def between(interval: Interval) -> str:
    """The ends of a relative change in percent: "[−0.4, +2.9]"; "" where there are none."""
    if interval.low is None or interval.high is None:
        return ""
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def loss_words(change: Interval) -> str:
    """A change of the loss as a clause that claims no more than its interval carries."""
    if change.low is None or change.high is None:
        why = (
            f"{change.n} images are too few for an interval"
            if change.n
            else "no interval: losses by image are not known"
        )
        return f"at {percent(change.value)} % loss ({why})"
    ends = f"95 % interval {percent(change.low)} to {percent(change.high)} %"
    if not change.beyond(0):
        return f"with no measurable change in loss ({percent(change.value)} %, {ends})"
    return f"at {percent(change.value)} % loss ({ends})"


def listed(parts: list[str]) -> str:
    """Join with commas and an "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def named(parts: list[str], most: int) -> str:
    """The first few of a list and how many more there are."""
    more = len(parts) - most
    return listed([*parts[:most], f"{more} more"]) if more > 0 else listed(parts)
