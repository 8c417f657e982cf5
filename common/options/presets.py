"""Named sets of options for ``--preset``, each value with its reason.

A value comes from the command line, else from the preset that the command line names, else from the file of
``-a/--argfile``, else it is the released default. (The file holds every option, so a preset below it could change
nothing.) What results is saved with the run, and so is the preset's name; reading the file again applies no preset.

Names and values are those of ``shared.py``, ``paired.py`` and ``unpaired.py``; a test holds them to it.
"""

import dataclasses
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from medi2i.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Setting:
    """One option of a preset: its name, its value (a tuple where the option takes several) and why."""

    name: str
    value: object
    reason: str


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a preset is for, its settings, and the options that it cannot know and the user must give."""

    purpose: str
    settings: tuple[Setting, ...]
    needs: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, object]:
        """dict name -> value."""
        return {setting.name: setting.value for setting in self.settings}


_WHAT_TO_TAKE_AWAY = (
    Setting("gen_norm", "none", "normalisation mixes in statistics of the image or the batch, and HU are absolute"),
    Setting("gen_out_activation", "none", "tanh would bend the HU near both ends of the clip"),
    Setting("gen_sample", "none", "3×3 first and last layers: 7×7 costs five times as much and sees no more detail"),
    Setting("unet", "concat", "fine detail passes by the bottleneck in all channels"),
)
_SMALL_CROPS = (
    Setting("crop_width", 64, "small crops: more different ones in an update of the same cost"),
    Setting("crop_height", 64, "as its width"),
    Setting("random_translate", -1, "crops from anywhere in the image, so that all of it is seen"),
)
_LONG_EPOCHS = (
    Setting("crops_per_image", 16, "an epoch of seconds would spend half of the time on validation and pictures"),
    Setting("epoch", 25, "as many crops as in 400 epochs of one; --minutes in its place is more practical"),
)
_NO_ADVERSARY = Setting("lambda_dis", 0, "an adversary trades accuracy for looks")
# What learns most in minutes of a core, found on noise of n = 100 in a real CT.
_IN_MINUTES = (
    Setting("gen_chs", (24, 48), "two levels see far enough; a small network makes more updates in the same time"),
    Setting("gen_nblock", 2, "deeper gains less than more updates in the same time"),
    Setting(
        "lambda_rec_l2",
        10000,
        "the mean is what minimises the squared error, so RMSE and PSNR are best; "
        "squares of noise in [-1, 1] are near 1e-5, where Adam's epsilon would count",
    ),
    Setting("lambda_rec_l1", 0, "lambda_rec_l2 in its place"),
    _NO_ADVERSARY,
    Setting("batch_size", 2, "two crops an update: in 100 s of a core 5.3 HU, four 5.6, eight 5.8 (ct-head)"),
    Setting("ema", 0.999, "the average of the last updates is better than the last one"),
    Setting("random_rot90", True, "noise has no up and down: eight times the crops"),
    *_SMALL_CROPS,
    *_LONG_EPOCHS,
)
_BY_ADAM = (
    Setting("learning_rate_gen", 1e-3, "without an adversary a higher rate is stable; 2e-3 was not"),
    Setting("adam_beta1", 0.9, "Adam's own value: the gradient of an error hardly turns from step to step"),
)
_BY_MUON = (
    Setting("optimizer", "Muon", "orthogonal steps: in 90 s of a core 5.2 HU, by Adam 5.5 (ct-head)"),
    Setting("learning_rate_gen", 3e-3, "Muon's steps are of equal size in all layers; wider networks need less"),
)

PAIRED = MappingProxyType(
    {
        "denoise": Preset(
            "input and output show the same, but for noise (and a constant bias)",
            (
                Setting("gen_residual", 0.02, "the layers say only what to take away, in steps of the size of noise"),
                *_WHAT_TO_TAKE_AWAY,
                *_IN_MINUTES,
                *_BY_MUON,
            ),
        ),
        "denoise_self": Preset(
            "noisy images alone, no clean ones: neighbouring slices are each other's targets",
            (
                Setting("targets", "neighbours", "their noise is independent where slices do not overlap"),
                Setting(
                    "gen_residual",
                    0.005,
                    "the layers say only what to take away; 0.02 is a little worse (docs/denoise.md)",
                ),
                *_WHAT_TO_TAKE_AWAY,
                *_IN_MINUTES,
                *_BY_MUON,
            ),
        ),
        "synthesis": Preset(
            "another modality of the same anatomy, as MR to CT, from registered pairs",
            (
                Setting(
                    "gen_norm", "none", "--normaliseA brings MR to one scale; statistics of a crop would undo that"
                ),
                Setting("gen_out_activation", "none", "tanh would bend the HU near both ends of the clip"),
                Setting(
                    "gen_sample", "half", "pairs lie on each other to some pixels: half of the grid shows all of it"
                ),
                Setting("unet", "concat", "outlines pass by the bottleneck"),
                Setting("gen_chs", (32, 64, 128), "a quarter of the released weights: pairs are few"),
                Setting("gen_nblock", 3, "deeper gains less than more updates in the same time"),
                Setting("lambda_rec_l1", 10, "bears outliers where the registration is a little off"),
                Setting("lambda_rec_l2", 20, "bone is few pixels, far off: by L1 alone it shows later still"),
                _NO_ADVERSARY,
                Setting("pad", "reflect", "zeros at the border would read as soft tissue"),
                Setting("optimizer", "Muon", "orthogonal steps learn more in the few updates that minutes have"),
                Setting(
                    "learning_rate_gen", 1e-3, "Muon's steps are of equal size in all layers; by 2e-3 it breaks down"
                ),
                Setting("batch_size", 4, "steadier gradients"),
                Setting("ema", 0.99, "the average of the last updates is better than the last one"),
                Setting("augment_noise", 0.03, "a little noise, or single dark pixels become air"),
                Setting("random_scale", 0.2, "patients differ in size"),
                Setting(
                    "random_rot90", True, "of few patients, place and direction teach what does not hold for others"
                ),
                *_SMALL_CROPS,
                Setting("crops_per_image", 8, "an epoch of seconds would spend half of the time on validation"),
            ),
        ),
        "superres": Preset(
            "finer detail on one grid, where bicubic interpolation brought the input to it, or --scale does",
            (
                Setting("gen_residual", 0.05, "the layers say only which detail to add"),
                *_WHAT_TO_TAKE_AWAY,
                *_IN_MINUTES,
                *_BY_ADAM,
            ),
        ),
        "superres_gan": Preset(
            "as superres, but sharp where that cannot be known: texture may be invented",
            (
                Setting("gen_residual", 0.03, "the layers say only which detail to add, and begin with little"),
                *(setting for setting in _WHAT_TO_TAKE_AWAY if setting.name != "unet"),
                Setting(
                    "unet", "add", "features of the first layer join before the last, as in SRGAN (arXiv 1609.04802)"
                ),
                Setting("gen_chs", (32, 64), "the blocks work on a grid half as fine, where the measured detail lies"),
                Setting("gen_up", "pixsh", "back to the fine grid by pixel shuffle (Shi et al., arXiv 1609.05158)"),
                Setting("gen_nblock", 4, "without normalisation each block about doubles what fresh weights answer"),
                Setting("dis_chs", (32, 64), "texture is local"),
                Setting("lambda_rec_l1", 10, "holds the grey values, and is sharper than the squared error"),
                Setting("lambda_dis", 0.01, "the adversary adds texture only where the pixels leave it open"),
                Setting("dis_warmup", 500, "it begins once images look like images"),
                Setting("learning_rate_gen", 5e-4, "an adversary bears less than none"),
                Setting("batch_size", 8, "steadier gradients, and batch statistics for the discriminator"),
                *_SMALL_CROPS,
                *_LONG_EPOCHS,
            ),
        ),
        "reconstruct": Preset(
            "an image from raw data such as a sinogram (AUTOMAP)",
            (
                Setting("gen_fc", 1, "one fully connected layer: each raw value bears on each pixel"),
                Setting("unet", "none", "raw data and image share no places, so nothing may pass by"),
                Setting(
                    "random_translate", 0, "shifted or flipped raw data are not those of the shifted or flipped image"
                ),
                _NO_ADVERSARY,
            ),
        ),
        "segment": Preset(
            "classes of pixels; the output images hold class numbers",
            (
                Setting("lambda_rec_ce", 1, "focal cross entropy: every pixel counts"),
                Setting("lambda_dice", 1, "small structures count as much as large ones"),
                Setting("lambda_rec_l1", 0, "differences of class scores mean nothing"),
                _NO_ADVERSARY,
                Setting("gen_chs", (16, 32, 64), "outlines need fewer weights than images"),
                Setting("learning_rate_gen", 1e-3, "without an adversary a higher rate is stable"),
                Setting("batch_size", 4, "batch statistics of more than one image"),
            ),
            needs=("class_num",),
        ),
    }
)

UNPAIRED = MappingProxyType(
    {
        "denoise": Preset(
            "noisy images in A, clean ones of the same kind in B, in no pairs",
            (
                Setting("gen_residual", 0.02, "the layers say only what to take away, in steps of the size of noise"),
                *_WHAT_TO_TAKE_AWAY,
                Setting("gen_chs", (16, 32), "two levels see far enough to average noise away"),
                Setting("gen_nblock", 2, "deeper gains less than more updates in the same time"),
                Setting(
                    "noise_x",
                    0.0066,
                    "clean images that are made noisy and clean again teach what noise is; its sd, 10 "
                    "HU in a clip of 3024 HU: where your noise is another, give 2 sd / (HIGH - LOW)",
                ),
                Setting(
                    "lambda_grad_y",
                    1000,
                    "but for noise the way to A may add a constant only; else it sharpens, and the way back blurs",
                ),
                Setting(
                    "lambda_A", 10, "noise that is gone cannot come back: a strong cycle would forbid to remove it"
                ),
                Setting("lambda_B", 1000, "clean, noisy, clean: this cycle teaches; errors are near 0.005"),
                Setting("lambda_Az", 0, "encoder and decoder of one domain are not what translates"),
                Setting("lambda_Bz", 0, "as lambda_Az"),
                Setting("lambda_domain", 0, "an image of B without what is to be taken away is none of B"),
                Setting(
                    "lambda_dis_x", 0.1, "the discriminators hardly see 10 HU in 3000: they hold the look, and no more"
                ),
                Setting("lambda_dis_y", 0.1, "as lambda_dis_x"),
                Setting("dis_chs", (16, 32), "it judges texture, which is local"),
                Setting("dis_norm", "none", "instance normalisation would hide the mean, which is to be right"),
                Setting("learning_rate_gen", 1e-3, "small networks take larger steps"),
                Setting(
                    "adam_beta1", 0.5, "between the released 0.1 and Adam's own 0.9, which adversaries make unsteady"
                ),
                Setting("batch_size", 2, "as in pix2pix: few crops, many updates"),
                Setting("ema", 0.999, "the average of the last updates is better than the last one"),
                Setting("random_rot90", True, "noise has no up and down: eight times the crops"),
                *_SMALL_CROPS,
                *_LONG_EPOCHS,
            ),
        ),
        "unit": Preset(
            "as synthesis, by one latent for both domains (UNIT; Liu et al., 2017); what comes out is smooth",
            (
                Setting(
                    "lambda_kl", 0.01, "the latent is sampled, and near N(0, 1): a tenth of the paper's, as all its"
                ),
                Setting("share_latent_blocks", 1, "as in the paper; 0 as in its authors' later code"),
                Setting("gen_nblock", 8, "four residual blocks in each encoder and decoder, as in the paper"),
                Setting(
                    "gen_norm", "fnorm", "of each pixel: statistics of an image fail where it shows more or less air"
                ),
                Setting("unet", "none", "what passes by the latent needs none"),
                Setting("gen_chs", (32, 64, 128), "half of the paper's: a core has minutes, not days"),
                Setting("dis_chs", (32, 64, 128), "no stronger than the generator"),
                Setting("lambda_A", 10, "a tenth of the paper's 100, as the weights of its later code"),
                Setting("lambda_B", 10, "as lambda_A"),
                Setting("lambda_Az", 10, "as lambda_A: the latent says all of the own domain, too"),
                Setting("lambda_Bz", 10, "as lambda_A"),
                Setting("lambda_domain", 0, "an MR is no CT that could be left as it is"),
                Setting("look_up", "auto", "or chance decides whether bright becomes bright or dark"),
                Setting("dis_norm", "none", "instance normalisation would hide the levels by which tissues differ"),
                Setting("optimizer", "Muon", "orthogonal steps learn more in the few updates that minutes have"),
                Setting("learning_rate_gen", 1e-3, "Muon's steps are of equal size in all layers"),
                Setting("learning_rate_dis", 3e-4, "as learning_rate_gen: a third of it"),
                Setting("adam_beta1", 0.5, "as in the paper, where Muon steps as Adam does"),
                Setting("pad", "reflect", "zeros at the border would read as soft tissue"),
                Setting("random_translate", 16, "the body may lie anywhere"),
                Setting("random_scale", 0.05, "patients differ in size"),
            ),
        ),
        "synthesis": Preset(
            "another modality, as MR to CT, from images in no pairs",
            (
                Setting("lambda_gc_x", 1, "edges stay where they are, whatever their contrast (Hiasa et al., 2018)"),
                Setting("lambda_gc_y", 1, "as lambda_gc_x"),
                Setting("lambda_domain", 0, "an MR is no CT that could be left as it is"),
                Setting("look_up", "auto", "or chance decides whether bright becomes bright or dark"),
                Setting(
                    "gen_norm", "fnorm", "of each pixel: by statistics of an image its levels are as they happen to be"
                ),
                Setting("gen_chs", (16, 32), "a core has minutes: many updates turn the contrast round, few do not"),
                Setting("gen_nblock", 4, "as gen_chs: more updates in the same time"),
                Setting("dis_norm", "none", "instance normalisation would hide the levels by which tissues differ"),
                Setting("dis_chs", (32, 64, 128), "half of the released: no stronger than the generator"),
                Setting("learning_rate_gen", 5e-4, "small networks take larger steps"),
                Setting("learning_rate_dis", 5e-4, "what turns the contrast round is the discriminator"),
                Setting("pad", "reflect", "zeros at the border would read as soft tissue"),
                *_SMALL_CROPS,
                Setting("random_scale", 0.05, "patients differ in size"),
            ),
        ),
    }
)


def preset_values(cls: Any, given: Mapping[str, Any], base: object = None) -> dict[str, object]:
    """{option: value} that the preset in ``given`` (what the command line says itself) brings; {} without one.

    cls: class of options with ``PRESETS``. base: the options of an args file that it goes over. Explicit
    options win, those that say the same otherwise included: ``-gb 16`` also takes the place of a preset's ``gen_chs``.
    Raises UserError for what the preset needs beside it.
    """
    preset = cls.PRESETS.get(given.get("preset"))  # a name that is not known is refused with the other values
    if preset is None:
        return {}
    for name in preset.needs:
        if not given.get(name, getattr(base, name, None)):
            raise UserError(f"--preset {given['preset']}: it needs --{name}, which only you can know")
    values = dict(preset.values)
    for field in dataclasses.fields(cls):
        if any(other in given for other in field.metadata["instead_of"]):
            values.pop(field.name, None)
        if field.name not in values and any(other in values for other in field.metadata["instead_of"]):
            values[field.name] = None  # else one in the file of --argfile would make these settings count for nothing
    return {name: value for name, value in values.items() if name not in given}


def listing(presets: Mapping[str, Preset]) -> str:
    """All presets as text, for ``--list_presets``."""
    blocks = []
    for name, preset in presets.items():
        lines = textwrap.wrap(f"{name}: {preset.purpose}", 100)
        if preset.needs:
            lines.append("  give also " + ", ".join(f"--{need}" for need in preset.needs))
        for setting in preset.settings:
            value = " ".join(map(str, setting.value)) if isinstance(setting.value, tuple) else str(setting.value)
            lines.append(f"  {'--' + setting.name + ' ' + value:<30} {setting.reason}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
