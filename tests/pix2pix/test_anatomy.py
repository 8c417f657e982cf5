"""A frozen segmentation network in the training of pix2pix: it is left as it is."""

import numpy as np
from run_files import save_segmentor

from medi2i.common.options import load_args
from medi2i.pix2pix import train


def image(seed, count):
    return np.random.default_rng(seed).uniform(-0.6, 0.2, (count, 1, 8, 12)).astype(np.float32)


def test_a_training_with_it_leaves_it_as_it_is_and_resumes(tmp_path, capsys):
    segmentor = save_segmentor(tmp_path / "classes")
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
