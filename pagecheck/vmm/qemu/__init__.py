"""What only QEMU tells: its RAM, devices and disks, over its monitor and from its heap."""
