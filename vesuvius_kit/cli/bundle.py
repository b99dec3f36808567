"""Build the offline bundle that Kaggle notebooks install: the kit, what the image lacks, an installer, a manifest."""

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument(
        "--output", type=str, default="dist/bundle", help="folder; an earlier bundle is brought up to date"
    )
    parser.add_argument("--checkout", type=str, default=".", help="folder of the kit's sources")
    parser.add_argument("--with-imagecodecs", action="store_true", help="carry imagecodecs, compiled, for faster TIFFs")
    parser.add_argument("--verify", action="store_true", help="build nothing: check the bundle that is there")
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.kaggle.bundle import build_bundle, read_manifest, verify_bundle

    if given.verify:
        problems = verify_bundle(given.output)
        for problem in problems:
            print(problem)
        print(f"{given.output}: {len(problems)} problems in {len(read_manifest(given.output).files)} files")
        return 1 if problems else 0
    manifest = build_bundle(given.output, checkout=given.checkout, with_imagecodecs=given.with_imagecodecs)
    width = max(len(file.name) for file in manifest.files)
    for file in manifest.files:
        print(f"{file.name:<{width}} {file.size / 1e6:9.3f} MB  sha256 {file.sha256[:16]}")
    print(f"{given.output}: {len(manifest.files)} files, {manifest.size / 1e6:.2f} MB, digest {manifest.digest[:16]}")
    return 0
