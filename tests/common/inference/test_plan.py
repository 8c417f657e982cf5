"""What both convert.py plan to do, by the options, the training's options and the images alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from medi2i.common.inference.generator import Model
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.options.conversion import PairedConversionOptions, UnpairedConversionOptions
from medi2i.cyclegan import convert as unpaired
from medi2i.datasets.catalogue import Catalogue, Source, Volume
from medi2i.datasets.scaling import Clip
from medi2i.pix2pix import convert as paired

APPLICATIONS = {
    "pix2pix": (paired, PairedOptions, PairedConversionOptions),
    "cyclegan": (unpaired, UnpairedOptions, UnpairedConversionOptions),
}


def plan_of(application, kind="dcm", direction="xy", **training):
    module, trained, options = APPLICATIONS[application]
    given = trained(**{"ch": 1, "out_ch": 1, **training})
    model = Model(SimpleNamespace(files=()), given, "enc_x1.npz", "ab", direction)
    images = Catalogue([Volume([Source((Path("a"),), kind, "a")])], [])
    return module.plan_of(options(model_gen="enc_x1.npz"), model, images)


@pytest.mark.parametrize(
    ("application", "kind", "training", "expected"),
    [
        ("pix2pix", "dcm", {}, Clip(-1024, 2000)),
        ("cyclegan", "dcm", {}, Clip(-1024, 176)),
        ("pix2pix", "dcm", {"clipB": [-160, 240]}, Clip(-160, 240)),
        ("cyclegan", "dcm", {"clipB": [-160, 240]}, Clip(-160, 240)),
        ("pix2pix", "png", {}, None),
        ("cyclegan", "png", {}, None),
        ("cyclegan", "png", {"clipB": [0, 255]}, None),
        ("pix2pix", "dcm", {"class_num": 4, "out_ch": 4}, None),
    ],
)
def test_differences_are_told_in_hu_only_where_results_are_hu_and_in_those_of_the_application(
    application, kind, training, expected
):
    plan = plan_of(application, kind, **training)
    assert plan.hu_clip == expected
    if kind == "dcm" and not training:  # 1 of [-1, 1] is half the clip: 1512 HU in one, 600 HU in the other
        assert plan.hu_clip.width / 2 == {"pix2pix": 1512, "cyclegan": 600}[application]
        assert plan.preparation.dicom_clip == plan.form.dicom_clip == expected


def test_cyclegan_takes_the_clips_by_its_direction():
    forth, back = (plan_of("cyclegan", clipA=[0, 1], clipB=[2, 4], direction=way) for way in ("xy", "yx"))
    assert (forth.preparation.clip, forth.form.clip) == (Clip(0, 1), Clip(2, 4))
    assert (back.preparation.clip, back.form.clip) == (Clip(2, 4), Clip(0, 1))
    assert (forth.description, back.description) == ("CycleGAN A to B", "CycleGAN B to A")
