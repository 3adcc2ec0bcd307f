"""`python -m lightning_imgmetrics`, and `torchrun -m lightning_imgmetrics`."""

from lightning_imgmetrics.cli.main import app

if __name__ == "__main__":
    app(prog_name="imgmetrics")
