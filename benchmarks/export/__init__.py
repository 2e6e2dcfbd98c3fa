"""Study: write-back, restoring and folding BatchNorm, latency, fp16 and int8, on eight networks."""
