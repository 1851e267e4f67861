"""The paper's NCSN as the benchmarks use it: untrained, since arithmetic does not depend on the weights."""

from typing import Any

MODEL: dict[str, Any] = {
    "family": "ncsn",
    "image_size": 28,
    "channels": 1,
    "fit": "resize",
    "network": {
        "channels": [32, 64, 128, 256],
        "embed_dim": 256,
        "fourier_scale": 30.0,
        "norm_groups": [4, 32, 32, 32],
        "sigma": 25.0,
    },
}
TRAINING: dict[str, Any] = {"preconditioning": "edm", "sigma_data": 0.33, "black": 0.0}
