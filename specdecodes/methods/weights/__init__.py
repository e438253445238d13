"""How weights come that are not as the checkpoint has them: quantized, converted, compressed, kept on disk."""
