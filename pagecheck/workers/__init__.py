"""The worker: one process behind one channel. It imports neither numpy nor posix_ipc."""
