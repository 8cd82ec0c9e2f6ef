"""A whole sweep, ours against what people write with Ray Tune, Optuna, the Trainer and PEFT."""
