"""Names for several metrics at once; importing this loads no framework."""

PRESETS: dict[str, tuple[str, ...]] = {
    "prdc": ("precision", "recall", "density", "coverage"),
    "is": ("inception_score",),
    "reconstruction": ("psnr", "ssim", "lpips", "rfid"),
    "photometry": ("sharpness", "noise", "exposure", "contrast", "saturation", "colorfulness"),
}
