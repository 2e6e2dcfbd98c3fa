"""What every call to a Triton server needs: a valid address, the access key, the cause of a failure."""
