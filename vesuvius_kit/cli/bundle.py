"""``vesuvius-kit bundle``."""


def bundle(
    *, output: str = "dist/bundle", checkout: str = ".", with_imagecodecs: bool = False, verify: bool = False
) -> int:
    """Build the offline bundle that Kaggle notebooks install: the kit, what the image lacks, an installer, a manifest.

    Parameters
    ----------
    output
        folder; an earlier bundle is brought up to date
    checkout
        folder of the kit's sources
    with_imagecodecs
        carry imagecodecs, compiled, for faster TIFFs
    verify
        build nothing: check the bundle that is there
    """
    from vesuvius_kit.kaggle.bundle import build_bundle, read_manifest, verify_bundle

    if verify:
        problems = verify_bundle(output)
        for problem in problems:
            print(problem)
        print(f"{output}: {len(problems)} problems in {len(read_manifest(output).files)} files")
        return 1 if problems else 0
    manifest = build_bundle(output, checkout=checkout, with_imagecodecs=with_imagecodecs)
    width = max(len(file.name) for file in manifest.files)
    for file in manifest.files:
        print(f"{file.name:<{width}} {file.size / 1e6:9.3f} MB  sha256 {file.sha256[:16]}")
    print(f"{output}: {len(manifest.files)} files, {manifest.size / 1e6:.2f} MB, digest {manifest.digest[:16]}")
    return 0
