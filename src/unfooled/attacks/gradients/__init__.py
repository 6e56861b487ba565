"""Gradients of models that hide them: averaged, estimated, replaced, distilled."""
