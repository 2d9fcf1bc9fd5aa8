"""ONNX files, engines and quantised models: writing, checking and running them."""
