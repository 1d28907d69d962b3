"""What this host is: devices, CPU, limits, NVML, RAPL, and the source of the code."""
