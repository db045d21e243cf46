"""What this server does on a GPU, in one run: `benchmarks/gpu_check.sh` has the options."""
