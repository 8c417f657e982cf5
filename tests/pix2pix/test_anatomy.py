"""A frozen segmentation network as the judge of anatomy: what it sees, what its loss is, and what stays as it is."""

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, load_args, save_args
from medi2i.pix2pix import net, train
from medi2i.pix2pix.net import Segmentor

SMALL = {"gen_chs": [3, 4], "gen_nblock": 1, "lambda_dis": 0, "unet": "concat", "gen_norm": "batch"}


@pytest.fixture
def segmentor(tmp_path):
    """A run folder of three classes, of images from -200 to 600."""
    folder = tmp_path / "classes"
    folder.mkdir()
    options = PairedOptions(**SMALL, class_num=3, clipA=[-200, 600])
    options.ch, options.out_ch = 1, 3
    np.random.seed(3)
    save_args(options, folder / "args")
    save_networks(folder, net.build(options).as_dict(), 4)
    return folder


def image(seed=0, count=2):
    return np.random.default_rng(seed).uniform(-0.6, 0.2, (count, 1, 8, 12)).astype(np.float32)


def test_it_sees_values_as_it_was_trained_and_nothing_beyond(segmentor):
    judge = Segmentor.load(segmentor, (-1024, 2000), 1)
    hu = np.float32([[[[-900, -200, 0, 200], [600, 2000, 100, 400], [0, 0, 0, 0], [1, 2, 3, 4]]]])
    unit = (hu + 1024) / 3024 * 2 - 1
    own = np.clip((hu + 200) / 800 * 2 - 1, -1, 1)
    direct = Segmentor.load(segmentor, (-200, 600), 1)
    for one, other in zip(judge(unit), direct(own), strict=True):
        np.testing.assert_allclose(one.array, other.array, atol=1e-4)
    with chainer.using_config("train", False):
        features = direct.generator.encoder(own)
        scores = direct.generator.decoder(list(features))
    np.testing.assert_allclose(direct(own)[0].array, features[0].array, atol=1e-5)
    np.testing.assert_allclose(direct(own)[-1].array, F.softmax(scores, axis=1).array, atol=1e-5)


def test_the_loss_is_the_mean_over_levels_and_its_gradient_ends_in_the_image(segmentor):
    judge = Segmentor.load(segmentor, (-1024, 2000), 1)
    y, t = chainer.Variable(image(1)), image(2)
    loss = losses.feature_distance(judge(y), judge(t))
    levels = [abs(a.array - b.array).mean() for a, b in zip(judge(y), judge(t), strict=True)]
    assert len(levels) == 4 and float(loss.array) == pytest.approx(np.mean(levels), rel=1e-5)
    assert float(losses.feature_distance(judge(t), judge(t)).array) == 0
    loss.backward()
    step = y.grad * np.float32(2e-3 / abs(y.grad).max())  # uphill, so that kinks on the way count little
    up, down = (losses.feature_distance(judge(y.array + sign * step), judge(t)).array for sign in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float((y.grad * step).sum()), rel=0.1)
    for link in (judge.generator.encoder, judge.generator.decoder):
        assert all(param.grad is None or np.isnan(param.grad).all() for param in link.params())


def test_a_training_with_it_leaves_it_as_it_is_and_resumes(segmentor, tmp_path, capsys):
    for domain, low in (("A", 0.0), ("B", -100.0)):
        (tmp_path / f"data/train{domain}").mkdir(parents=True)
        for number in range(2):
            np.save(tmp_path / f"data/train{domain}/{number}.npy", 400 * image(number, 1)[0, 0] + np.float32(low))
    before = (segmentor / "enc_x4.npz").read_bytes()
    words = [
        "-R",
        tmp_path / "data",
        "-ca",
        -200,
        600,
        "-cb",
        -1024,
        2000,
        "-gc",
        3,
        4,
        "-gnb",
        1,
        "-g",
        -1,
        "-ldis",
        0,
    ]
    words += ["--nvis", 0, "-e", 1, "-cw", 8, "-ch", 8, "--lambda_anatomy", 1, "--segmentor", segmentor]
    assert train.main([str(word) for word in (*words, "-o", tmp_path / "out")]) == 0
    (run,) = (tmp_path / "out").iterdir()
    assert "dec_y/loss_anatomy" in (run / "log.jsonl").read_text()
    assert load_args(run).segmentor == str(segmentor) and (segmentor / "enc_x4.npz").read_bytes() == before
    assert train.main(["--resume", str(run), "-e", "2"]) == 0
    capsys.readouterr()
    assert train.main([str(word) for word in (*words[:-2], "-o", tmp_path / "none")]) == 1
    assert "--lambda_anatomy: needs --segmentor RUN" in capsys.readouterr().err


def test_what_tells_no_classes_apart_or_takes_other_images_is_refused(segmentor):
    with pytest.raises(UserError, match="takes images of 1 channels, these have 3"):
        Segmentor.load(segmentor, (-1024, 2000), 3)
    options = load_args(segmentor)
    options.class_num = 0
    save_args(options, segmentor / "args")
    with pytest.raises(UserError, match="--class_num would"):
        Segmentor.load(segmentor, (-1024, 2000), 1)
