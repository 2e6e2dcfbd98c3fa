"""Room: quantisation-aware distillation. An int8 network learns to reproduce its float32 outputs."""
