"""Where the guest RAM of a VM is: among all processes, and among what one process maps."""
