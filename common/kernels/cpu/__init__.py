"""What Chainer's functions are computed with on the CPU: oneDNN, and NumPy in bands of rows and on all threads."""
