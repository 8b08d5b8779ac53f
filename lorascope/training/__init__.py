"""Training runs that make the checkpoints which the reports explain, on transformers' ``Trainer`` and peft."""
