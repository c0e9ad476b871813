"""Hub models: backbones, adapters, and the models that few-shot learning exports."""
