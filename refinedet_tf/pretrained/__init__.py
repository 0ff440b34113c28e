"""The detector that comes with the package: a run folder, which the name "pretrained" stands for.

MODEL_CARD.md says what it was trained on and what it must not be measured on. docs/ship_detector.py makes
config.json and final.weights.h5, in which the numbers have 16 bits, from a run of
voc2007_test_photos_2.json.
"""
