"""The servers that ours is compared with, each a program of its own: `python -m benchmarks.serving_peers.NAME`.

Every program takes the port, the ONNX file, the element type of the model's input and a number of workers.
"""
