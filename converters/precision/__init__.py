"""fp16, bf16 and int8, and the search for what must stay in float32."""
