"""What computes, and spares memory, only where the device is a CPU."""
