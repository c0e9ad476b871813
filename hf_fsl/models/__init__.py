"""Hub models: backbones, adapters, what few-shot learning exports, and the code that is published with it."""
