"""What the paper prints in its tables (Sun et al., USENIX Security 2024).

Of the 14 backdoored models those are here whose trigger a model of this project has. Three are not:
NN4 (no network here took its trigger), NN19 and NN20 (those of NN1 and NN2 on a ResNet50).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ADAPTIVE_FOUND",
    "CLEAN_FLAGGED",
    "DETECTORS",
    "LAYERS",
    "PUBLISHED",
    "REMOVERS",
    "Published",
]


@dataclass(frozen=True)
class Published:
    """What the paper prints of one trigger.

    Attributes:
        net: Its name there.
        network: Architecture.
        accuracy: Clean accuracy (Table 1).
        success: Attack success rate (Table 1).
        repaired: Accuracy before and after the repair (Table 3); SR is 0 after it in all.
        detectors: LOO, SubSample, NC, K-ARM, EX-RAY (Table 4).
        removers: Change of SR and of accuracy by RS, MOTH, NAD, ANP, DFR (Table 5).
    """

    net: str
    network: str
    accuracy: float
    success: float
    repaired: tuple[float, float]
    detectors: tuple[str, ...]
    removers: tuple[tuple[float, float], ...]


DETECTORS = ("leave-one-out", "subsample", "neural-cleanse", "k-arm", "ex-ray")
REMOVERS = ("smoothing", "moth", "nad", "anp", "dfr")
# By the name of the trigger in this project's models. "benign" stands for nothing flagged.
PUBLISHED = {
    "green_car": Published(
        "NN1", "ResNet18", 0.85, 1.0, (0.8474, 0.8282),
        ("(1,6)", "(1,6)", "benign", "benign", "0.9844"),
        ((0, -0.0024), (0, -0.2374), (-0.2858, -0.0381), (-0.8571, -0.0098), (-0.2857, -0.0314)),
    ),
    "striped_wall_car": Published(
        "NN2", "ResNet18", 0.86, 1.0, (0.8616, 0.8205),
        ("benign", "benign", "(-,3)", "benign", "0.9098"),
        ((-0.1670, -0.0006), (0, -0.1096), (-0.3333, -0.0257), (-0.3336, -0.0103), (0, -0.0252)),
    ),
    "dark_keep_left": Published(
        "NN5", "VGG11", 0.97, 0.90, (0.9733, 0.9713),
        ("benign", "benign", "benign", "(41)", "0.9493"),
        ((-0.0667, 0.0197), (-0.9, -0.2616), (-0.6, 0.0007), (-0.9, -0.0097), (0.1, -0.0579)),
    ),
    "striped_tshirt": Published(
        "NN7", "MobileNetV2", 0.91, 0.94, (0.9124, 0.9001),
        ("(0,2)", "(0,2)", "benign", "benign", "0.8863"),
        ((-0.1107, -0.0854), (0, -0.0117), (-0.8333, -0.0095), (0, 0), (-0.9444, -0.0056)),
    ),
    "plaid_shirt": Published(
        "NN8", "MobileNetV2", 0.91, 0.98, (0.9116, 0.8837),
        ("benign", "benign", "benign", "(0,6)", "0.6762"),
        ((-0.2059, -0.1356), (0, -0.0202), (-0.6667, -0.0030), (0, 0), (-0.0476, 0.0012)),
    ),
    "blue_8": Published(
        "NN10", "DenseNet", 0.98, 0.98, (0.9822, 0.9749),
        ("benign", "benign", "benign", "benign", "0.6425"),
        ((-0.1357, -0.0142), (0.0169, -0.0094), (-0.8141, 0.0012), (-0.9831, -0.0014),
         (-0.8645, -0.0013)),
    ),
    "black_2": Published(
        "NN11", "DenseNet", 0.95, 1.0, (0.9523, 0.9741),
        ("benign", "benign", "benign", "benign", "0.4531"),
        ((-0.07, -0.0093), (0, -0.0129), (-1, 0.0341), (-0.7908, 0.0112), (-0.9535, 0.0188)),
    ),
    "bright_A": Published(
        "NN13", "MobileNet", 1.0, 1.0, (0.9988, 0.9574),
        ("benign", "benign", "benign", "(12,13)", "0.1149"),
        ((0, -0.0008), (0, -0.0365), (-0.0656, -0.0012), (0, 0), (0, -0.0010)),
    ),
    "dark_Z": Published(
        "NN14", "MobileNet", 1.0, 1.0, (0.9991, 0.9751),
        ("(7,13)", "(7,13)", "benign", "(12,13)", "0.2299"),
        ((0, -0.0001), (-0.0155, -0.1289), (0, -0.0010), (-0.9845, -0.1870), (0, -0.0215)),
    ),
    "grey_brain": Published(
        "NN16", "ShuffleNetV2", 0.83, 1.0, (0.8327, 0.8085),
        ("benign", "benign", "benign", "(0,1)", "0.2244"),
        ((0, -0.0121), (0, -0.0414), (-1, -0.1654), (0, 0), (0, -0.0454)),
    ),
    "kangaroo_on_grass": Published(
        "NN17", "ShuffleNetV2", 0.82, 1.0, (0.8216, 0.8033),
        ("benign", "benign", "benign", "(0,1)", "0.2277"),
        ((0, -0.0091), (0, -0.0404), (-1, -0.0988), (0, -0.0061), (0, -0.0504)),
    ),
}  # fmt: skip

# Table 4, of 7 clean models: how many are flagged; EX-RAY's probabilities.
CLEAN_FLAGGED = {
    "leave-one-out": "1 of 7",
    "subsample": "1 of 7",
    "neural-cleanse": "3 of 7",
    "k-arm": "3 of 7",
    "ex-ray": "0.05 to 0.46",
}
# Table 6, by the kind of model: of each layer what is detected, and seconds on a T4.
LAYERS = {
    "green_car": (
        "NN1",
        {"last": ("right pair", 51), "deep": ("right pair", 96), "middle": ("right pair", 8200),
         "shallow": ("nothing", 34963)},
    ),
    "striped_wall_car": (
        "NN2",
        {"last": ("right pair", 52), "deep": ("right pair", 93), "middle": ("nothing", 8147),
         "shallow": ("nothing", 35100)},
    ),
    "clean": (
        "NN3",
        {"last": ("nothing", 28), "deep": ("nothing", 72), "middle": ("nothing", 8160),
         "shallow": ("nothing", 35149)},
    ),
}  # fmt: skip
# Table 7: rho, whether the pair is detected, accuracy, SR.
ADAPTIVE_FOUND = (
    (0.1, True, 0.9842, 0.9661),
    (0.2, True, 0.9867, 0.9322),
    (0.3, True, 0.9862, 0.9153),
    (0.4, True, 0.9848, 0.9492),
    (0.5, True, 0.9830, 0.9153),
    (0.6, True, 0.9812, 0.9153),
    (0.7, True, 0.7657, 1.0),
    (0.8, False, 0.2120, 1.0),
    (0.9, False, 0.1117, 1.0),
)
