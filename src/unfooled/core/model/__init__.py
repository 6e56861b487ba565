"""What a model is: any callable to logits, its outputs, its states and its batches."""
