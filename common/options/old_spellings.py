"""Options that the released codes spell otherwise, folded into the names used here."""

import argparse
import dataclasses

from medi2i.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class BaseAndWidth:
    """``--HU_baseA -1024 --HU_rangeA 1200`` of the released CycleGAN: a lower end and a width instead of two ends.

    ``target`` is the option with (lower, upper); one of the two given alone takes the other's released default.
    """

    target: str
    base: str
    width: str
    base_flag: str
    width_flag: str
    default_base: int
    default_width: int

    def add_to(self, parser):
        """Add both spellings to an argparse parser, out of sight in its help."""
        parser.add_argument(self.base_flag, "--" + self.base, dest=self.base, help=argparse.SUPPRESS)
        parser.add_argument(self.width_flag, "--" + self.width, dest=self.width, help=argparse.SUPPRESS)

    def fold(self, values):
        """Replace both in the dict ``values`` by ``target``. A width of 0 means: not set."""
        if self.base not in values and self.width not in values:
            return
        base, width = values.pop(self.base, None), values.pop(self.width, None)
        if values.get(self.target) is not None:
            raise UserError(f"--{self.target}: given together with --{self.base}/--{self.width}; one of them is enough")
        try:
            lower = float(self.default_base if base is None else base)
            extent = float(self.default_width if width is None else width)
        except (TypeError, ValueError):
            raise UserError(f"--{self.base}/--{self.width}: {base!r} {width!r} are not numbers") from None
        if extent < 0:
            raise UserError(f"--{self.width}: {width} is negative; it is the width of the range in HU")
        values[self.target] = [lower, lower + extent] if extent else None
        if self.target.startswith("clip"):
            values["clips_in_hu"] = True


OLD_SPELLINGS = (
    BaseAndWidth("clipA", "HU_baseA", "HU_rangeA", "-huba", "-hura", -1024, 1200),
    BaseAndWidth("clipB", "HU_baseB", "HU_rangeB", "-hubb", "-hurb", -1024, 1200),
    BaseAndWidth("vis_window", "HU_base_vis", "HU_range_vis", "-hubv", "-hurv", 0, 0),
)

# The long options that the released codes had: both, then each.
_BOTH = """argfile out root imgtype crop_width crop_height grey batch_size epoch gpu learning_rate lr_drop
weight_decay snapinterval vis_freq lambda_tv lambda_reg lambda_wgan_gp tv_tau random_translate random_rotation
random_scale noise noise_z load_optimizer optimizer dtype eqconv spconv senet dis_activation dis_out_activation
dis_ksize dis_chs dis_basech dis_ndown dis_down dis_sample dis_jitter dis_dropout dis_norm dis_reg_weighting dis_wgan
dis_attention gen_pretrained_encoder gen_pretrained_lr_ratio gen_activation gen_out_activation gen_chs gen_ndown
gen_basech gen_fc gen_fc_activation gen_nblock gen_ksize gen_sample gen_down gen_up gen_dropout gen_norm unet skipdim
latent_dim
""".split()
_PAIRED = """btoa train val from_col to_col fn_pattern clipA clipB class_num class_weight stack learning_rate_gen
learning_rate_dis weight_decay_norm display_interval nvis vis_random parameter_statistics lambda_rec_l1 lambda_rec_l2
lambda_rec_ce lambda_dice lambda_dis lambda_mispair focal_gamma loss_ksize model_gen model_dis dis_warmup
gen_attention
""".split()
_UNPAIRED = """learning_rate_g learning_rate_d learning_freq_d iteration load_models HU_baseA HU_rangeA HU_baseB
HU_rangeB slice_range forceSpacing num_slices dis_pretrained dis_pretrained_lr_ratio single_encoder lambda_A lambda_B
lambda_Az lambda_Bz lambda_identity_x lambda_identity_y perceptual_layer lambda_grad lambda_air lambda_domain
lambda_idempotence lambda_dis_y lambda_dis_x lambda_dis_z tv_method air_threshold nvis_A nvis_B HU_base_vis
HU_range_vis output_analysis
""".split()
RELEASED = {"pix2pix": (*_BOTH, *_PAIRED), "cyclegan": (*_BOTH, *_UNPAIRED)}

# name in a released args file -> name here
RENAMED = {
    "num_slices": "stack",
    "load_models": "model_gen",
    "learning_rate_g": "learning_rate_gen",
    "learning_rate_d": "learning_rate_dis",
}


def fold_json(values):
    """The content of a released ``args`` file with the names used here; ``values`` is left as it is."""
    values = dict(values)
    for old, new in RENAMED.items():
        if old in values:
            values.setdefault(new, values[old])
            del values[old]
    for rule in OLD_SPELLINGS:
        rule.fold(values)
    if isinstance(values.get("gpu"), list):
        values["gpu"] = values["gpu"][0] if values["gpu"] else None
    for name in ("clipA", "clipB"):
        if values.get(name) == [None, None]:
            values[name] = None
    for name in ("argfile", "model_gen", "model_dis"):  # what those codes save for none
        if values.get(name) == "":
            values[name] = None
    return values
