"""GGUF files, llama.cpp's, as another source of what a checkpoint's folder gives."""
