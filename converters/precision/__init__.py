"""Convert a model to fp16, bf16 or int8, and search for the nodes that must stay in float32."""
