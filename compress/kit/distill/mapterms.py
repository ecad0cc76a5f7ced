"""Terms of maps: what layers of two networks, their raw outputs, or a feature network make of the same photos."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compress.core.errors import UsageError
from compress.kit.distill.pictureterms import seen
from compress.kit.distill.term import Compute, Term, mean_of
from compress.kit.distill.view import View, resized
from compress.kit.measure.losses import full


def _maps(view: View, term: Term, *, adapted: bool) -> list[tuple[Tensor, Tensor]]:
    """Pairs of maps, float32, the teacher's without gradient and at its own size."""
    if term.on == "outputs":
        return view.levels()
    if term.on == "features":
        return view.features()
    if term.on == "perceptor":
        both = seen(view, term)
        return [] if both is None else [(full(mine), full(theirs).detach()) for mine, theirs in zip(*both, strict=True)]
    if not view.pairs:
        raise UsageError(
            f"term '{term.name}' compares maps from inside, and no layers of the two networks were matched",
            hint="name them in the recipe's [taps], or take a recipe without taps",
        )
    return [(full(p.adapted if adapted else p.student), full(p.teacher).detach()) for p in view.pairs]


def of_maps(
    compare: Callable[[Tensor, Tensor, float], Tensor], *, adapted: bool, sized: bool = True, rival: str = ""
) -> Compute:
    """Make a term of a comparison of two maps: mean over all pairs.

    Args:
        compare: The comparison, given T.
        adapted: Whether it needs equal widths.
        sized: Whether it needs equal sides: the teacher's are brought to the student's.
        rival: What to take where widths differ, for the message.
    """

    def compute(view: View, term: Term) -> Tensor | None:
        found = []
        for mine, theirs in _maps(view, term, adapted=adapted):
            if adapted and mine.shape[1] != theirs.shape[1]:
                raise UsageError(
                    f"term '{term.name}' needs maps of equal width on {term.on}: the student's has {mine.shape[1]} "
                    f"channels, the teacher's {theirs.shape[1]}",
                    hint=f'compare on = "taps", which has adaptors, or take loss = "{rival or "kernel"}"',
                )
            fit = resized(theirs, mine) if sized and theirs.shape[2:] != mine.shape[2:] else theirs
            found.append(compare(mine, fit, term.temperature(view)))
        return mean_of(found)

    return compute


def untempered(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Make a comparison that T means nothing to one that is given it."""
    return lambda mine, theirs, _: compare(mine, theirs)
