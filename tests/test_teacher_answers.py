"""A teacher's kept answers: what comes back is what it said, whatever was kept, lost or left out."""

import logging

import numpy as np
import pytest
import torch

from compress.core.store import Store
from compress.kit.distill.answers import SLOT, Answers


class Teacher:
    """Two maps of an image; counts the images it was asked about."""

    def __init__(self, seconds=0.0):
        self.asked, self.seconds = 0, seconds

    def __call__(self, images):
        import time

        time.sleep(self.seconds)
        self.asked += len(images)
        return [images * 3.0 + 1.0, images.mean(1, keepdim=True)[:, :, ::2, ::2]]


def batch(slots, seed=0):
    """Images that are a function of their slots, as augmented pictures are."""
    draw = [np.random.default_rng([seed, int(slot)]).standard_normal((3, 4, 6)) for slot in slots]
    return {"image": torch.tensor(np.stack(draw), dtype=torch.float32), SLOT: torch.tensor(slots)}


def expected(made):
    return [answer.half().float() for answer in Teacher()(made["image"])]


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def answers(teacher, root, *, slots=8, limit=10**6, keep=True, visits=2.0, key=None):
    return Answers(teacher, root, key or {"teacher": "a"}, slots, visits, limit, keep)


def test_each_picture_is_asked_about_once_and_read_back_after(tmp_path):
    teacher = Teacher()
    kept = answers(teacher, tmp_path)
    for slots in ([0, 1, 2], [3, 4, 5], [2, 0, 5], [6, 1, 7], [7, 7, 3]):
        made = batch(slots)
        same(kept(made), expected(made))
    assert teacher.asked == 8
    assert kept.kept == 8


def test_another_process_finds_them_and_another_teacher_does_not(tmp_path):
    first = answers(Teacher(), tmp_path)
    first(batch([0, 1, 2, 3]))
    first(batch([0, 1, 2, 3]))
    teacher, stranger = Teacher(), Teacher()
    again = answers(teacher, tmp_path)
    again(batch([0]))  # asked once, for the shapes
    same(again(batch([1, 2])), expected(batch([1, 2])))
    assert teacher.asked == 1
    other = answers(stranger, tmp_path, key={"teacher": "b"})
    other(batch([0, 1]))
    other(batch([1, 2]))
    assert stranger.asked == 3


def test_nothing_is_kept_where_no_picture_comes_twice(tmp_path):
    teacher = Teacher()
    plain = answers(teacher, tmp_path, slots=0, keep=None)
    made = {"image": batch([0, 1])["image"]}
    found = plain(made)
    torch.testing.assert_close(found[0], made["image"] * 3.0 + 1.0, rtol=0, atol=0)  # and nothing is rounded
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_asked_about_every_time(tmp_path):
    teacher = Teacher()
    row = 2 * (3 * 4 * 6 + 2 * 3)  # bytes of an answer in float16
    kept = answers(teacher, tmp_path, limit=3 * row)
    for _ in range(3):
        made = batch([1, 5, 2, 7])
        same(kept(made), expected(made))
    assert teacher.asked == 4 + 2 + 2
    size = sum(file.stat().st_size for file in tmp_path.rglob("answers.f16"))
    assert size == 3 * row


def test_room_for_none_is_no_error(tmp_path):
    kept = answers(Teacher(), tmp_path, limit=1)
    same(kept(batch([0, 1])), expected(batch([0, 1])))
    same(kept(batch([0, 1])), expected(batch([0, 1])))


def test_older_answers_make_room(tmp_path):
    row = 2 * (3 * 4 * 6 + 2 * 3)
    for name in ("a", "b", "c"):
        answers(Teacher(), tmp_path, limit=17 * row, key={"teacher": name})(batch([0]))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("seconds", "visits", "wanted"), [(0.05, 4.0, True), (0.0, 4.0, False), (0.05, 1.0, False)])
def test_it_decides_by_what_was_measured_and_says_so(seconds, visits, wanted, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    teacher = Teacher(seconds)
    kept = answers(teacher, tmp_path, keep=None, visits=visits)
    if not seconds:
        kept._write = lambda *_: __import__("time").sleep(0.02)  # a disk slower than the teacher
    for slots in ([0, 1], [2, 3], [4, 5], [6, 7]):
        made = batch(slots)
        same(kept(made), expected(made))
    assert kept.keep is wanted
    made = batch([0, 1])
    same(kept(made), expected(made))
    assert teacher.asked == (8 if wanted else 10)
    assert ("kept, 8 of 8 answers" if wanted else "asked every time") in caplog.text
    assert any(tmp_path.iterdir()) is wanted


def test_a_half_written_answer_counts_as_none(tmp_path):
    """A killed run leaves rows without their mark: they are asked about again."""
    first = answers(Teacher(), tmp_path)
    first(batch([0, 1, 2]))
    first._rows[1] = 7.0
    first._whole[1] = 0
    teacher = Teacher()
    again = answers(teacher, tmp_path)
    again(batch([3]))
    same(again(batch([0, 1, 2])), expected(batch([0, 1, 2])))
    assert teacher.asked == 2


def test_values_beyond_float16_stay_finite(tmp_path):
    kept = Answers(lambda images: [images * 1e9], tmp_path, {}, 4, 2.0, 10**6, True)
    made = batch([0, 1])
    for _ in range(2):
        found = kept(made)[0]
        assert torch.isfinite(found).all()
        assert found.abs().max() == 65504.0


def test_the_store_has_a_place_for_them(tmp_path):
    """They lie under the store's cache, which lists no artifact."""
    store = Store(tmp_path)
    answers(Teacher(), tmp_path / "cache" / "answers")(batch([0]))
    assert store.artifacts() == []
