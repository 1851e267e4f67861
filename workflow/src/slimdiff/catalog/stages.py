"""Stages in the order of the data flow. Free of torch, as the rules must be. A test compares them with the rules."""

DATASET_STAGES = ("data", "extractors", "classifier", "inception", "reference", "foreign")  # once per data set
TRAINING_STAGES = ("train", "pretrained", "finetune")  # once per training and seed
# Once per cell: stage → its last output in the cell's folder. `row` merges their records.
CELL_STAGES = {
    "compress": "model.safetensors",
    "sample": "samples.npz",
    "score": "score.json",
    "profile": "profile.json",
}
