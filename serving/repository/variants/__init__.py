"""The configurations of one model for other devices: what TensorRT needs, and how they follow the main one."""
