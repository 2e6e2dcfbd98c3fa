"""Study: write-back, folding, latency, fp16 and int8 on eight networks."""
