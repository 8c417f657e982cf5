"""Convert images with a trained pix2pix: files, folders or a list; DICOM to DICOM, every other kind to its own.

python pix2pix/convert.py RUN -R data/ldct/testA -o converted
python pix2pix/convert.py -a RUN/args -m RUN/enc_x50.npz -R data/ldct --val pairs_val.txt -o converted
"""

import sys

from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError, run
from medi2i.common.inference import setup
from medi2i.common.inference.conversion import Plan, convert
from medi2i.common.inference.graph_engines import examples_of
from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.network import Network, engine_of, load_model, network_of
from medi2i.common.inference.ranks import sharing
from medi2i.common.inference.results import Format
from medi2i.common.inference.slices import Preparation
from medi2i.common.inference.stacks import Combine
from medi2i.common.inference.uncertainty import sampled, samples_of
from medi2i.common.networks.sizes import fitting_of
from medi2i.common.options import PairedOptions
from medi2i.common.options.conversion import PairedConversionOptions, parse_conversion
from medi2i.datasets.grid import STEP
from medi2i.datasets.scaling import PAIRED_HU, Clip
from medi2i.pix2pix.closing import evaluation_command


def command(argv):
    """``pix2pix/convert.py`` with the arguments ``argv``; returns the status."""
    options, given = parse_conversion(PairedConversionOptions, argv, "medi2i-pix2pix-convert", __doc__)
    use_cpu_engine(options.cpu_engine)
    use_gpu_engine(options.gpu_engine)
    crew, options = sharing(options)
    with crew:
        model = crew.agree(lambda: _model(options, given))
        plan = crew.agree(lambda: plan_of(options, model))
        status = convert(plan, crew)
    comparable = not plan.form.cropped or plan.inputs.sources[0].kind == "dcm"  # of the truth's size, in its unit
    if crew.finished and len(options.root) == 1 and not status and comparable:
        judging = evaluation_command(
            model.trained, options.root[0], options.val, options.out, f"{options.out.rstrip('/')}_evaluation"
        )
        if judging is not None:
            print(f"how good it is, as a report:\n  {judging}", file=sys.stderr)
    return status


def _model(options, given):
    model = load_model(options, given, PairedOptions)
    if model.direction == "yx":
        raise UserError(f"{model.name}: pix2pix translates one way only; enc_x…npz is its generator")
    return model


def plan_of(options, model):
    """The Plan of a conversion by ``model`` (``inference.network.Model``). Raises UserError."""
    trained, device = model.trained, choose_device(options.gpu)
    option_in, option_out = trained.clip_names
    clip_in, clip_out = setup.clip_of(options, trained, option_in), setup.clip_of(options, trained, option_out)
    from_col, to_col = (trained.to_col, trained.from_col) if trained.btoa else (trained.from_col, trained.to_col)
    columns = options.from_col or from_col
    stack, images, classes = trained.stack, 1 if trained.class_num else len(to_col), trained.class_num
    if model.generator is None:
        stack, images, classes = 1, 1, 0
    if options.val is None:
        columns = columns[:1]
    released, as_released = setup.released(model), setup.as_released(model)
    crop, fixed = setup.crop_of(options, model)
    inputs = find_inputs(
        options.root,
        kind=options.imgtype,
        preferred=trained.imgtype,
        pattern=options.fn_pattern,
        list_file=options.val,
        columns=columns,
        exclude=options.out,
        released=released,
    )
    imgtype_out = options.imgtype_out or trained.imgtype_out
    if model.generator is None:
        clip_in = clip_out = setup.clips_of_identity(options, option_in, inputs.sources[0].kind, imgtype_out)
    keep = setup.kept_outside(options, model, inputs, clip_in, clip_out, classes)
    more = {"columns": columns, **({"scale": trained.scale} if trained.scale > 1 else {})}
    settings = setup.pixel_settings(options, model, clip_in=clip_in, clip_out=clip_out, keep=keep, more=more)
    preparation = Preparation(
        clip_in,
        PAIRED_HU,
        setup.per_slice(trained.ch, stack, model),
        crop,
        fixed=fixed,
        scale=trained.scale,
        released=released,
        step=STEP if as_released else 1,
    )
    engine = engine_of(
        model.generator,
        device,
        options,
        setup.clip_in_hu(clip_out, inputs, classes),
        lambda: examples_of(inputs, preparation, stack, fitting_of(trained)),
        images=1 if sampled(options) else len(inputs.sources),
    )
    network = network_of(model.generator, engine, options.tile, options.tile_overlap)
    samples = samples_of(
        options,
        model,
        network,
        lambda: network_of(model.generator, engine_of(model.generator, device), options.tile, options.tile_overlap),
        device,
        stack=stack,
        classes=classes,
    )
    return Plan(
        options=options,
        model=model.description,
        settings=settings,
        network=network if samples is None else Network(samples.run),
        samples=samples,
        preparation=preparation,
        form=Format(
            imgtype_out,
            clip_out,
            PAIRED_HU,
            classes,
            images,
            keep=keep,
            numbers=setup.GREY_LEVELS if as_released else Clip(),
            cropped=as_released,
        ),
        stack=stack,
        combine=Combine.MIDDLE,
        inputs=inputs,
        description="pix2pix",
        known=setup.known_change(model, clip_out or (PAIRED_HU if inputs.sources[0].kind == "dcm" else None), inputs),
        compare_edges=not classes and not trained.gen_fc,
    )


def main(argv=None):
    """Entry point; returns the status of the process."""
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
