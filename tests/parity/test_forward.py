"""The released weights give the released outputs: encoder, decoder and discriminator, in test mode."""

import numpy as np
import pytest
from run_files import translation

from medi2i.common.compat import chainer
from medi2i.common.inference.graph_engines import ENGINES, installed
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.files import arrays_of, load_link
from medi2i.common.networks.from_options import discriminator_spec

TOLERANCE = 2e-5  # of the largest output, as rerunning the released code with another BLAS and NumPy gives

pytestmark = pytest.mark.parity


def assert_equal_within(tolerance, found, expected, what):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    difference = abs(found - expected).max() / abs(expected).max()
    assert difference <= tolerance, f"{what}: {difference:.1e} of its scale"


def names_in(file, link):
    """Names of the arrays in a released file, but for those that the network has no use for.

    A released file of a pretrained encoder that is trained on holds all of the published network.
    """
    with np.load(file, allow_pickle=False) as released:
        names = released.files
    base = getattr(link, "base", None)
    return sorted(
        name
        for name in names
        if base is None or name in arrays_of(link) or not base.published.unused.fullmatch(name.removeprefix("base/"))
    )


def test_parity_forward(forward_case, cpu_engine):
    golden = np.load(forward_case / "io.npz", allow_pickle=False)
    generator = load_generator(forward_case / "enc_x.npz")  # with base.npz, where the file lacks frozen layers
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        features = generator.encoder(golden["x"])
        image = generator.decoder(features)
    assert_equal_within(TOLERANCE, features[-1].array, golden["z_last"], "deepest feature")
    assert_equal_within(TOLERANCE, image.array, golden["y"], "image")
    assert_equal_within(TOLERANCE, translation(generator, golden["x"]), golden["y"], "image from arrays to arrays")
    for file, link in (("enc_x.npz", generator.encoder), ("dec_y.npz", generator.decoder)):
        assert names_in(forward_case / file, link) == sorted(arrays_of(link))

    if cpu_engine == "chainer":  # whose functions a graph does not use
        for name in installed():
            engine = ENGINES[name](generator.encoder, generator.decoder, None)
            assert_equal_within(TOLERANCE, engine.run(golden["x"]), golden["y"], name)

    if "dis_in" in golden:
        judged = judgement(forward_case / "dis.npz", generator.options, golden["dis_in"])
        assert_equal_within(TOLERANCE, judged, golden["dis_out"], "judgement")


def judgement(file, options, images):
    # pix2pix judges input and output together, CycleGAN one image.
    in_ch = options.ch + options.out_ch if options.APPLICATION == "pix2pix" else options.out_ch
    discriminator = Discriminator(discriminator_spec(options, in_ch))
    load_link(file, discriminator)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        return discriminator(images).array
