"""The losses a recipe can name: what each computes, which keys it takes."""

from __future__ import annotations

from dataclasses import dataclass

from compress.kit.distill.mapterms import of_maps, untempered
from compress.kit.distill.pictureterms import hard, iou, kl, of_pictures, perceptual, picture, ssim, tv, wavelet
from compress.kit.distill.term import Compute, Of, On
from compress.kit.measure import losses, maplosses


@dataclass(frozen=True)
class Kind:
    """What a loss of that name computes, and which keys a recipe may give it.

    Args:
        compute: The loss.
        on: What it can compare, the default first; empty where it has no choice.
        of: What it can learn from, the default first; empty where it has no choice.
        keys: Further keys it reads.
        tempered: Whether T matters to it.
        adapted: Whether maps of taps must have one width, so that an adaptor is wanted.
    """

    compute: Compute
    on: tuple[On, ...] = ()
    of: tuple[Of, ...] = ()
    keys: tuple[str, ...] = ()
    tempered: bool = False
    adapted: bool = False

    def known(self) -> tuple[str, ...]:
        """Every key a recipe may give it."""
        choices = (("on", self.on), ("of", self.of), ("T", self.tempered))
        return ("loss", "weight", *(key for key, has in choices if has), *self.keys)


INSIDE: tuple[On, ...] = ("taps", "outputs", "features")
BOTH: tuple[Of, ...] = ("teacher", "labels")
_channels = of_maps(losses.channel_wise_distillation, adapted=True, rival="attention")
_attention = of_maps(losses.attention_distillation, adapted=False, sized=False)
_kernel = of_maps(untempered(maplosses.kernel_alignment_loss), adapted=False)
_features = of_maps(untempered(losses.feature_l2), adapted=True, sized=False)
_means = of_maps(untempered(maplosses.channel_means_loss), adapted=True, sized=False)
_style = of_maps(untempered(maplosses.style_loss), adapted=True, sized=False)
KINDS: dict[str, Kind] = {
    "kl": Kind(kl, keys=("confidence",), tempered=True),
    "hard": Kind(hard, keys=("balance",)),
    "iou": Kind(of_pictures(iou), of=BOTH),
    "ssim": Kind(of_pictures(ssim), of=BOTH),
    "picture": Kind(of_pictures(picture), of=BOTH, keys=("norm", "confidence")),
    "wavelet": Kind(of_pictures(wavelet), of=BOTH, keys=("steps",)),
    "tv": Kind(tv),
    "perceptual": Kind(perceptual, of=BOTH),
    "channels": Kind(_channels, on=INSIDE, tempered=True, adapted=True),
    "attention": Kind(_attention, on=INSIDE, tempered=True),
    "kernel": Kind(_kernel, on=INSIDE),
    "features": Kind(_features, on=INSIDE, adapted=True),
    "means": Kind(_means, on=INSIDE, adapted=True),
    "style": Kind(_style, on=(*INSIDE, "perceptor"), adapted=True),
}
