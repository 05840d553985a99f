"""FLOPs, timing and memory of models and scans."""
