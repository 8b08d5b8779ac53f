"""What happened inside the weights: tensors in, values out; no file and no model code."""
