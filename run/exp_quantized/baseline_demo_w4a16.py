"""Plain decoding of the bundled demo model in 4 bits, which benchmarks/quantize_demo.py writes in GPTQ's format."""

from run.exp_quantized.families import DEMO, baseline

pipeline = baseline(DEMO["w4a16"], "512MiB")
