"""Room: quantisation-aware distillation. A network in int8 learns what it says in float32."""
